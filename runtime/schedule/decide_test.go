package schedule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"plasmid/runtime/unit"
)

// TestScenarios replays testdata/*: each file tells a story of one cluster.
//
//	machines   one a line: ID [key=value …] [gone|suspect|cordoned|draining]; cpus=
//	           and memory= (MiB) are what it has, not metadata
//	unit       NAME [wish=…] then its [X-Fleet] options, one a line
//	forget     NAME: the user destroys the unit
//	place      UNIT MACHINE: as if an earlier plan had put it there
//	decide     [rebalance] [budget=…] prints the decisions, what is unplaced and
//	           what is stuck, and carries them out
//	settle     units that were moved have come up
//	ready      UNIT…: they do their work, wherever they are
//	fail       UNIT [MACHINE]: it failed with the text that it has there
//	avoid      UNIT MACHINE: it failed there too often
//	done       UNIT: it ran to its end
//	lapse      nothing is avoided any more
//	judge      UNIT: why each machine can or can't run it
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var c cluster
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return c.run(t, d)
		})
	})
}

type cluster struct{ view View }

func (c *cluster) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "machines":
		c.view.Machines = nil
		for line := range strings.Lines(d.Input) {
			words := strings.Fields(line)
			m := Machine{ID: words[0], Metadata: map[string]string{}}
			for _, w := range words[1:] {
				switch k, v, kv := strings.Cut(w, "="); {
				case k == "cpus":
					m.CPU = number(t, d, v) * 1000
				case k == "memory":
					m.Memory = number(t, d, v)
				case w == "draining":
					m.Draining = true
				case kv:
					m.Metadata[k] = v
				case w == "gone":
					m.Gone = true
				case w == "suspect":
					m.Suspect = true
				case w == "cordoned":
					m.Cordoned = true
				default:
					d.Fatalf(t, "%q is nothing a machine can be", w)
				}
			}
			c.view.Machines = append(c.view.Machines, m)
		}
		return ""
	case "unit":
		u := Unit{Wish: "launched"}
		text := "[X-Fleet]\n" + d.Input
		for _, a := range d.CmdArgs[1:] {
			if a.Key == "wish" {
				u.Wish = a.Vals[0]
			}
		}
		name := d.CmdArgs[0].Key
		spec, err := unit.SpecOf(name, text)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		u.Spec, u.Hash = spec, unit.Hash(text)
		c.forget(name)
		c.view.Units = append(c.view.Units, u)
		return ""
	case "forget":
		c.forget(d.CmdArgs[0].Key)
		return ""
	case "place":
		p := Placed{Unit: d.CmdArgs[0].Key, Machine: d.CmdArgs[1].Key, Wish: "launched"}
		for _, u := range c.view.Units {
			if u.Spec.Name == p.Unit {
				p.Hash = u.Hash
			}
		}
		c.view.Placed = append(c.view.Placed, p)
		return ""
	case "ready", "fail":
		for i := range c.view.Placed {
			pl := &c.view.Placed[i]
			on := d.CmdArgs[0].Key == pl.Unit && (len(d.CmdArgs) < 2 || d.CmdArgs[1].Key == pl.Machine)
			if d.Cmd == "ready" && slices.ContainsFunc(d.CmdArgs, func(a datadriven.CmdArg) bool { return a.Key == pl.Unit }) {
				pl.Ready = true
			} else if d.Cmd == "fail" && on {
				pl.Failed, pl.Ready, pl.Back = true, false, true
			}
		}
		for i := range c.view.Units {
			u := &c.view.Units[i]
			if d.Cmd == "ready" && slices.ContainsFunc(d.CmdArgs, func(a datadriven.CmdArg) bool { return a.Key == u.Spec.Name }) {
				u.Ready = true
			}
		}
		return ""
	case "avoid", "done", "lapse":
		for i := range c.view.Units {
			u := &c.view.Units[i]
			switch {
			case d.Cmd == "lapse":
				u.Avoid = nil
			case u.Spec.Name != d.CmdArgs[0].Key:
			case d.Cmd == "done":
				u.Done, u.Wish = "it ran to its end", "loaded"
			default:
				u.Avoid = map[string]string{d.CmdArgs[1].Key: "failed it too often"}
			}
		}
		return ""
	case "settle":
		for i := range c.view.Placed {
			c.view.Placed[i].Moving = false
		}
		return ""
	case "judge":
		var b strings.Builder
		for _, v := range Judge(c.view, d.CmdArgs[0].Key) {
			fmt.Fprintf(&b, "%s %s\n", v.Machine, cmp.Or(v.Why, "can run it"))
		}
		return b.String()
	case "decide":
		c.view.Rebalance, c.view.Budget = d.HasArg("rebalance"), 0
		if d.HasArg("budget") {
			d.ScanArgs(t, "budget", &c.view.Budget)
		}
		r := Decide(c.view)
		if again := Decide(c.view); fmt.Sprint(r) != fmt.Sprint(again) {
			t.Errorf("%s: the same view gives two plans:\n%v\n%v", d.Pos, r, again)
		}
		c.apply(r)
		return render(r)
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return ""
}

func number(t *testing.T, d *datadriven.TestData, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return n
}

func (c *cluster) forget(name string) {
	c.view.Units = slices.DeleteFunc(c.view.Units, func(u Unit) bool { return u.Spec.Name == name })
}

// apply carries the decisions out.
func (c *cluster) apply(r Result) {
	for _, d := range r.Decisions {
		if d.Op != Place {
			c.view.Placed = slices.DeleteFunc(c.view.Placed, func(p Placed) bool { return p.Unit == d.Unit && p.Machine == d.Machine })
		}
		if d.Op != Remove {
			i := slices.IndexFunc(c.view.Units, func(u Unit) bool { return u.Spec.Name == d.Unit })
			c.view.Placed = append(c.view.Placed, Placed{Unit: d.Unit, Machine: d.Machine, Hash: c.view.Units[i].Hash, Wish: c.view.Units[i].Wish, Moving: d.Moving})
		}
	}
}

func render(r Result) string {
	var b strings.Builder
	for _, d := range r.Decisions {
		fmt.Fprintf(&b, "%-6s %s %s: %s\n", d.Op, d.Unit, d.Machine, d.Reason)
	}
	for _, u := range slices.Sorted(maps.Keys(r.Unplaced)) {
		fmt.Fprintf(&b, "nowhere %s: %s\n", u, Explain(r.Unplaced[u]))
	}
	for _, u := range slices.Sorted(maps.Keys(r.Stuck)) {
		fmt.Fprintf(&b, "stays  %s: %s\n", u, r.Stuck[u])
	}
	for _, u := range slices.Sorted(maps.Keys(r.RollBack)) {
		fmt.Fprintf(&b, "back   %s: %s\n", u, r.RollBack[u])
	}
	if r.Balanced {
		fmt.Fprintln(&b, "balanced")
	}
	if b.Len() == 0 {
		return "nothing to do\n"
	}
	return b.String()
}
