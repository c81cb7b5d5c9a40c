package simulate

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"plasmid/runtime/api"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

const db = "[X-Fleet]\nMachineMetadata=role=db\n"

// three machines, the second with role=db; web@1 to 4 and db are placed.
func three() Cluster {
	var c Cluster
	for i := range 3 {
		m := store.Machine{ID: fmt.Sprintf("%032x", i+1), Name: fmt.Sprintf("n%d", i+1), Metadata: map[string]string{}, CPUs: 2, MemoryMiB: 4096}
		if i == 1 {
			m.Metadata["role"] = "db"
		}
		c.Machines = append(c.Machines, api.Machine{Machine: m, Alive: true})
	}
	add := func(name, text string, on int) {
		hash := unit.Hash(text)
		c.Units = append(c.Units, api.Unit{Name: name, Text: text, Hash: hash, Wish: store.Launched, On: []api.Row{{Machine: c.Machines[on].ID, Hash: hash, Wish: store.Launched, Placement: 7}}})
	}
	for i := range 4 {
		add(fmt.Sprintf("web@%d.service", i+1), "[Service]\n", i%3)
	}
	add("db.service", db, 1)
	return c
}

func TestRun(t *testing.T) {
	c := three()
	id := func(i int) string { return c.Machines[i-1].ID }
	for name, x := range map[string]struct {
		what    What
		steps   string
		nowhere string
		stays   string
	}{
		"nothing": {What{}, "", "", ""},
		"a new unit": {What{Start: map[string]string{"new.service": "[X-Plasmid]\nMemory=1G\n"}},
			"new.service -> 3", "", ""},
		"another text": {What{Start: map[string]string{"web@1.service": "[Service]\nX=1\n"}}, "web@1.service 1 -> 1", "", ""},
		"a unit that fits nowhere": {What{Start: map[string]string{"big.service": "[X-Plasmid]\nMemory=8G\n"}}, "",
			"big.service: no machine can run it (3 checked): has 4096 of 4096 MiB free, not Memory=8192M (3)", ""},
		"a drain":        {What{Drain: []string{id(2)}}, "web@2.service 2 -> 3", "", "db.service: no machine has metadata role=db (2 checked)"},
		"a lost machine": {What{Lose: []string{id(2)}}, "db.service 2 -> , web@2.service 2 -> 3", "db.service: no machine has metadata role=db (2 checked)", ""},
		"destroyed":      {What{Destroy: []string{"db.service"}}, "db.service 2 -> ", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := c.View()
			out, err := Run(v, x.what)
			if err != nil {
				t.Fatal(err)
			}
			var steps []string
			last := func(id string) string { return strings.TrimLeft(id, "0") }
			for _, s := range out.Steps {
				if s.Reason == "" {
					t.Errorf("%+v has no reason", s)
				}
				line := s.Unit
				if s.From != "" {
					line += " " + last(s.From)
				}
				steps = append(steps, line+" -> "+last(s.To))
			}
			if have := strings.Join(steps, ", "); have != x.steps {
				t.Errorf("steps %q, want %q", have, x.steps)
			}
			for what, pair := range map[string][2]string{"nowhere": {texts(out.Nowhere), x.nowhere}, "stays": {texts(out.Stays), x.stays}} {
				if pair[0] != pair[1] {
					t.Errorf("%s %q, want %q", what, pair[0], pair[1])
				}
			}
			if !reflect.DeepEqual(v, c.View()) {
				t.Error("the view was changed")
			}
		})
	}
	if _, err := Run(c.View(), What{Destroy: []string{"none.service"}}); err == nil {
		t.Error("a unit that is not there was destroyed")
	}
	if _, err := Run(c.View(), What{Start: map[string]string{"x.service": "[X-Plasmid]\nNo=1\n"}}); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a bad file: %v", err)
	}
}

func texts(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+": "+m[k])
	}
	return strings.Join(out, ", ")
}

func TestFind(t *testing.T) {
	c := three()
	for name, want := range map[string]string{"n2": "n2", c.Machines[2].ID: "n3", "n9": "there is no machine n9", "0000000": "3 machines have an ID"} {
		m, err := c.Find(name)
		if err == nil && m.Name != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s %v", name, m.Name, err)
		}
	}
}
