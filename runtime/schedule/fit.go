package schedule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"plasmid/runtime/unit"
)

// class are the units that ask the same of a machine itself, whatever is on it.
// What a machine lacks for them is found out once for all of them.
type class struct {
	p        *planner
	key      string
	spec     *unit.Spec // of one of them
	verdicts []string   // by host.index: why it is unfit; empty: it fits
	known    []bool
	queues   map[string]*queue // by the value of a metadata key, after "key="; "": all machines
}

func (p *planner) classOf(w *wanted) *class {
	key := ""
	if len(w.Spec.Metadata)+len(w.Spec.Machine) > 0 {
		var b strings.Builder
		for _, k := range slices.Sorted(maps.Keys(w.Spec.Metadata)) {
			fmt.Fprintf(&b, "%q%q ", k, w.Spec.Metadata[k])
		}
		for _, r := range w.Spec.Machine {
			fmt.Fprintf(&b, "%q ", r.String())
		}
		key = b.String()
	}
	c := p.classes[key]
	if c == nil {
		c = &class{p: p, key: key, spec: &w.Spec, queues: map[string]*queue{}}
		if key != "" {
			c.verdicts, c.known = make([]string, len(p.order)), make([]bool, len(p.order))
		}
		p.classes[key] = c
	}
	return c
}

// unfit says what the machine itself lacks, as the end of a sentence that
// begins with it.
func (c *class) unfit(h *host) string {
	if c.key == "" {
		return ""
	}
	if !c.known[h.index] {
		c.verdicts[h.index], c.known[h.index] = c.judge(h), true
	}
	return c.verdicts[h.index]
}

func (c *class) judge(h *host) string {
	for _, k := range slices.Sorted(maps.Keys(c.spec.Metadata)) {
		if vs := c.spec.Metadata[k]; !slices.Contains(vs, h.Metadata[k]) {
			return "lacks metadata " + k + "=" + strings.Join(vs, " or ")
		}
	}
	for _, r := range c.spec.Machine {
		if !r.Met(h.facts()) {
			v, ok := h.facts()[r.Key]
			switch {
			case ok:
				return fmt.Sprintf("has %s=%s, not Machine=%s", r.Key, v, r)
			default:
				return fmt.Sprintf("has no %s, not Machine=%s", r.Key, r)
			}
		}
	}
	return ""
}

// facts are what Machine= can ask for: metadata, and below it what every
// machine is known to have.
func (h *host) facts() map[string]string {
	if h.values == nil {
		h.values = map[string]string{"id": h.id, "host": h.Name, "cpus": strconv.Itoa(h.CPU / 1000), "memory": strconv.Itoa(h.Memory)}
		maps.Copy(h.values, h.Metadata)
	}
	return h.values
}

// lacksRoom says which of the unit's reservations the machine can't take, as if
// the unit but were not there.
func lacksRoom(w *wanted, h *host, but *wanted) string {
	r := &w.Spec.Reserve
	if r.CPU == 0 && r.Memory == 0 && len(r.Ports) == 0 {
		return ""
	}
	cpu, memory := h.cpu, h.memory
	if but != nil && h.units[but.name] == but {
		cpu -= but.Spec.Reserve.CPU
		memory -= but.Spec.Reserve.Memory
	}
	if r.CPU > 0 && h.CPU > 0 && cpu+r.CPU > h.CPU {
		return fmt.Sprintf("has %s of %s processors free, not Cpu=%s", processors(max(0, h.CPU-cpu)), processors(h.CPU), processors(r.CPU))
	}
	if r.Memory > 0 && h.Memory > 0 && memory+r.Memory > h.Memory {
		return fmt.Sprintf("has %d of %d MiB free, not Memory=%dM", max(0, h.Memory-memory), h.Memory, r.Memory)
	}
	for _, port := range r.Ports {
		if other := h.ports[port]; other != nil && other != w && other != but {
			return fmt.Sprintf("has %s, which reserves port %s", other.name, port)
		}
	}
	return ""
}

func processors(thousandths int) string {
	return strconv.FormatFloat(float64(thousandths)/1000, 'f', -1, 64)
}

// likeness names what a unit asks for, such that two units of the same likeness
// fit the same machines. It is empty where that depends on the unit's name.
func (p *planner) likeness(w *wanted) string {
	if p.picky > 0 || w.picky() || w.Spec.MachineID != "" || len(w.Spec.MachineOf) > 0 || w.avoids() {
		return ""
	}
	r := w.Spec.Reserve
	return fmt.Sprintf("%s\x00%d %d %v", w.class.key, r.CPU, r.Memory, r.Ports)
}

// avoids reports whether the unit has reasons of its own not to be on a machine.
func (w *wanted) avoids() bool { return len(w.Avoid) > 0 }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// group are units that are spread over the values of one key.
type group struct {
	name  string // as people are told: web@.service, or app hello
	key   string
	count map[string]int // units by value
}

func (p *planner) groupOf(w *wanted) *group {
	if w.Spec.Spread == "" || w.Spec.Global {
		return nil
	}
	name := "app " + w.Spec.App
	if n, err := unit.ParseName(w.name); err == nil && n.TemplateOf() != "" {
		name = n.TemplateOf()
	} else if w.Spec.App == "" {
		return nil // it has no like
	}
	key := name + "\x00" + w.Spec.Spread
	g := p.groups[key]
	if g == nil {
		g = &group{name: name, key: w.Spec.Spread, count: map[string]int{}}
		p.groups[key] = g
	}
	return g
}

// perHost is the key of a spread over machines.
const perHost = "host"

func (g *group) value(h *host) string {
	if g.key == perHost {
		return h.id
	}
	return h.Metadata[g.key]
}

// best returns the machine that a unit goes to, or nil: of those that can run
// it one with the fewest of its like, if it is to be spread, then the one with
// the fewest units, then by ID. With not given, that machine is left out.
func (p *planner) best(w *wanted, not *host) *host {
	like := p.likeness(w)
	if _, failed := p.failed[like]; failed && like != "" && not == nil {
		return nil
	}
	fits := func(h *host) bool { return h != not && p.closed(h) == "" && p.unfit(w, h) == "" }
	var found *host
	switch {
	case w.Spec.MachineID != "":
		for _, h := range p.withID(w.Spec.MachineID) {
			if fits(h) && (found == nil || less(h, found)) {
				found = h
			}
		}
	case w.group == nil:
		found = p.queue(w.class, "", "").first(fits)
	case w.group.key == perHost:
		found = p.leastOf(w, fits)
	default:
		found = p.leastValue(w, fits)
	}
	if found == nil && like != "" && not == nil {
		p.failed[like] = nil // known to fail; why is worked out when asked for
	}
	return found
}

// withID are the machines whose ID begins so.
func (p *planner) withID(id string) []*host {
	i, _ := slices.BinarySearchFunc(p.order, id, func(h *host, id string) int { return cmp.Compare(h.id, id) })
	end := i
	for end < len(p.order) && strings.HasPrefix(p.order[end].id, id) {
		end++
	}
	return p.order[i:end]
}

// leastOf finds the machine with the fewest of a unit's like.
func (p *planner) leastOf(w *wanted, fits func(*host) bool) *host {
	q := p.queue(w.class, "", "")
	for most := 0; ; {
		next := -1
		h := q.first(func(h *host) bool {
			n := w.group.count[h.id]
			if n > most {
				if next < 0 || n < next {
					next = n
				}
				return false
			}
			return fits(h)
		})
		if h != nil || next < 0 {
			return h
		}
		most = next
	}
}

// leastValue finds the machine among those of the value with the fewest of a
// unit's like.
func (p *planner) leastValue(w *wanted, fits func(*host) bool) *host {
	values := map[string]bool{}
	for _, h := range p.order {
		if p.closed(h) == "" {
			values[w.group.value(h)] = true
		}
	}
	sorted := slices.SortedFunc(maps.Keys(values), func(a, b string) int {
		return cmp.Or(w.group.count[a]-w.group.count[b], cmp.Compare(a, b))
	})
	var found *host
	count := 0
	for _, v := range sorted {
		if found != nil && w.group.count[v] > count {
			break
		}
		if h := p.queue(w.class, w.group.key, v).first(fits); h != nil && (found == nil || less(h, found)) {
			found, count = h, w.group.count[v]
		}
	}
	return found
}
