package plan

import (
	"fmt"
	"strings"
	"testing"
)

// lines are the steps as a user sees them, and after what each comes.
func lines(p Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s", s.ID)
		if len(s.Needs) > 0 {
			fmt.Fprintf(&b, " after %s", strings.Join(s.Needs, ", "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func wanted(image string, etcd bool, names ...string) []Machine {
	var ms []Machine
	for _, n := range names {
		ms = append(ms, Machine{Name: n, Group: "c", Image: image, Etcd: etcd})
	}
	return ms
}

func running(image string, names ...string) []Observed {
	var os []Observed
	for _, n := range names {
		os = append(os, Observed{Name: n, Group: "c", Image: image, Running: true, Complete: true})
	}
	return os
}

func joined(etcd bool, names ...string) []Member {
	var ms []Member
	for _, n := range names {
		ms = append(ms, Member{n, etcd, Machine{Group: "c", Etcd: etcd}.Spec()})
	}
	return ms
}

func TestMake(t *testing.T) {
	three := []string{"c-1", "c-2", "c-3"}
	for _, c := range []struct {
		name string
		in   Input
		want string
	}{
		{"nothing to do", Input{Network: true, Wanted: wanted("i", true, three...), Observed: running("i", three...), Members: joined(true, three...)}, ""},
		{"from nothing", Input{Cluster: "c", Wanted: append(wanted("i", true, "c-1"), wanted("i", false, "c-2")...)}, `
create network c
create machine c-1 after create network c
create machine c-2 after create network c
create member c-1 after create machine c-1
create member c-2 after create machine c-2, create member c-1
`},
		{"cut off before the join", Input{Network: true, Wanted: wanted("i", true, "c-1"), Observed: running("i", "c-1")}, `
create member c-1
`},
		{"half a machine is made again", Input{Network: true, Wanted: wanted("i", true, "c-1"), Observed: []Observed{{Name: "c-1", Image: "i"}}}, `
create machine c-1
create member c-1 after create machine c-1
`},
		{"powered off", Input{Network: true, Wanted: wanted("i", true, three...), Observed: append(running("i", "c-1", "c-2"), Observed{Name: "c-3", Image: "i", Complete: true}), Members: joined(true, three...)}, `
start machine c-3
`},
		{"scale up, in the order of numbers", Input{Network: true, Wanted: append(wanted("i", true, "c-1"), wanted("i", false, "c-10", "c-2")...), Observed: running("i", "c-1"), Members: joined(true, "c-1")}, `
create machine c-2
create machine c-10
create member c-2 after create machine c-2
create member c-10 after create machine c-10
`},
		{"voters join one at a time", Input{Network: true, Wanted: wanted("i", true, three...), Observed: running("i", "c-1"), Members: joined(true, "c-1")}, `
create machine c-2
create machine c-3
create member c-2 after create machine c-2
create member c-3 after create machine c-3, create member c-2
`},
		{"scale down, the highest first", Input{Network: true, Wanted: wanted("i", true, "c-1"), Observed: running("i", three...), Members: append(joined(true, "c-1"), joined(false, "c-2", "c-3")...)}, `
delete member c-3
delete machine c-3 after delete member c-3
delete member c-2
delete machine c-2 after delete member c-2
`},
		{"voters leave one at a time", Input{Network: true, Wanted: wanted("i", true, "c-1"), Observed: running("i", three...), Members: joined(true, three...)}, `
delete member c-3
delete machine c-3 after delete member c-3
delete member c-2 after delete member c-3
delete machine c-2 after delete member c-2
`},
		{"new metadata", Input{Network: true, Wanted: []Machine{{Name: "c-1", Group: "c", Image: "i", Etcd: true, Metadata: map[string]string{"role": "db"}}}, Observed: running("i", "c-1"), Members: joined(true, "c-1")}, `
update member c-1
`},
		{"new image, one machine at a time", Input{Network: true, Wanted: wanted("new", true, three...), Observed: running("old", three...), Members: joined(true, three...)}, `
delete member c-1
delete machine c-1 after delete member c-1
create machine c-1 after delete machine c-1
create member c-1 after create machine c-1
delete member c-2 after create member c-1
delete machine c-2 after delete member c-2, create member c-1
create machine c-2 after delete machine c-2
create member c-2 after create machine c-2
delete member c-3 after create member c-2
delete machine c-3 after delete member c-3, create member c-2
create machine c-3 after delete machine c-3
create member c-3 after create machine c-3
`},
		{"new image, the dead machine first", Input{Network: true, Wanted: wanted("new", true, three...),
			Observed: append(running("old", "c-1", "c-2"), Observed{Name: "c-3", Image: "old", Complete: true}), Members: joined(true, three...)}, `
delete member c-3
delete machine c-3 after delete member c-3
create machine c-3 after delete machine c-3
create member c-3 after create machine c-3
delete member c-1 after create member c-3
delete machine c-1 after delete member c-1, create member c-3
create machine c-1 after delete machine c-1
create member c-1 after create machine c-1
delete member c-2 after create member c-1
delete machine c-2 after delete member c-2, create member c-1
create machine c-2 after delete machine c-2
create member c-2 after create machine c-2
`},
		{"new shape of one that has not joined", Input{Network: true, Wanted: []Machine{{Name: "c-1", Group: "c", Image: "i", Shape: "flavor large", Etcd: true}}, Observed: running("i", "c-1")}, `
delete machine c-1
create machine c-1 after delete machine c-1
create member c-1 after create machine c-1
`},
		{"a member without a machine", Input{Network: true, Wanted: wanted("i", true, "c-1", "c-2"), Observed: running("i", "c-1", "c-2"), Members: joined(true, three...)}, `
delete member c-3
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Make(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(p); got != strings.TrimPrefix(c.want, "\n") {
				t.Errorf("got\n%swant%s", got, c.want)
			}
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	three := []string{"c-1", "c-2", "c-3"}
	for _, c := range []struct {
		name string
		in   Input
		says []string
	}{
		{"no voter would stay", Input{Network: true, Wanted: wanted("i", true, "d-1"), Observed: running("i", three...), Members: joined(true, three...)},
			[]string{"none of the 3 etcd members would stay", "plasmid down"}},
		{"no majority runs", Input{Network: true, Wanted: wanted("i", true, "c-1", "c-2"), Observed: running("i", "c-1"), Members: joined(true, three...)},
			[]string{"1 of 3 etcd members run", "start the others first"}},
		{"the only voter's machine would be replaced", Input{Network: true, Wanted: wanted("new", true, "c-1"), Observed: running("old", "c-1"), Members: joined(true, "c-1")},
			[]string{"c-1 is the only etcd member", "etcd = 3", "plasmid down"}},
	} {
		_, err := Make(c.in)
		if err == nil {
			t.Errorf("%s: there is a plan", c.name)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: the error does not say %q: %v", c.name, s, err)
			}
		}
	}
}

func TestDestroy(t *testing.T) {
	p := Destroy(Input{Cluster: "c", Network: true, Observed: running("i", "c-10", "c-2")})
	want := "delete machine c-2\ndelete machine c-10\ndelete network c after delete machine c-2, delete machine c-10\n"
	if got := lines(p); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if p := Destroy(Input{}); !p.Empty() {
		t.Errorf("nothing is destroyed in %d steps", len(p.Steps))
	}
}

func TestSummary(t *testing.T) {
	p := Plan{Steps: []Step{{Action: Create}, {Action: Create}, {Action: Update}, {Action: Start}, {Action: Delete}}}
	if got, want := p.Summary(), "Plan: 2 to add, 2 to change, 1 to destroy."; got != want {
		t.Errorf("got %q", got)
	}
}
