package schedule

import (
	"cmp"
	"container/heap"
)

// less reports whether a is to get a unit before b.
func less(a, b *host) bool {
	return cmp.Or(len(a.units)-len(b.units), cmp.Compare(a.id, b.id)) < 0
}

// queue has machines in the order in which they are to get units. While units
// are placed machines only get fuller, so an entry that is out of date stands
// too far ahead, and is put right when it comes to the top.
type queue struct {
	planner *planner
	entries []entry
	shrunk  int // planner.shrunk when the entries were put in order
}

type entry struct {
	h     *host
	units int // that h had when the entry was put in its place
}

// queue returns the class's queue of the machines where a metadata key has a
// value, or of all machines.
func (p *planner) queue(c *class, key, value string) *queue {
	name := ""
	if key != "" {
		name = key + "=" + value
	}
	q := c.queues[name]
	if q == nil {
		q = &queue{planner: p, shrunk: p.shrunk}
		for _, h := range p.order {
			if p.closed(h) == "" && c.unfit(h) == "" && (key == "" || h.Metadata[key] == value) {
				q.entries = append(q.entries, entry{h, len(h.units)})
			}
		}
		heap.Init(q)
		c.queues[name] = q
	}
	if q.shrunk != p.shrunk {
		for i := range q.entries {
			q.entries[i].units = len(q.entries[i].h.units)
		}
		heap.Init(q)
		q.shrunk = p.shrunk
	}
	return q
}

// first returns the first machine for which ok holds, or nil.
func (q *queue) first(ok func(*host) bool) *host {
	// Machines that were passed over are kept behind the end of the heap.
	all := q.entries
	var found *host
	for len(q.entries) > 0 && found == nil {
		top := &q.entries[0]
		if now := len(top.h.units); now != top.units {
			top.units = now
			heap.Fix(q, 0)
			continue
		}
		if ok(top.h) {
			found = top.h
			break
		}
		last := len(q.entries) - 1
		q.Swap(0, last)
		q.entries = q.entries[:last]
		if last > 0 {
			heap.Fix(q, 0)
		}
	}
	for len(q.entries) < len(all) {
		q.entries = all[:len(q.entries)+1]
		heap.Fix(q, len(q.entries)-1)
	}
	return found
}

func (q *queue) Len() int { return len(q.entries) }
func (q *queue) Less(i, j int) bool {
	a, b := q.entries[i], q.entries[j]
	return cmp.Or(a.units-b.units, cmp.Compare(a.h.id, b.h.id)) < 0
}
func (q *queue) Swap(i, j int) { q.entries[i], q.entries[j] = q.entries[j], q.entries[i] }
func (q *queue) Push(any)      {}
func (q *queue) Pop() any      { return nil }
