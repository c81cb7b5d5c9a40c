package store

import "strings"

// Changes is what is different in one view from another, as far as the engine
// asks: a unit counts as changed when anything about it did.
type Changes struct {
	All      bool                // the store was listed anew: anything may be different
	Machines bool                // any machine, its metadata or an order
	Units    map[string]struct{} // by name
}

// Add takes in later changes.
func (c *Changes) Add(later Changes) {
	c.All = c.All || later.All
	c.Machines = c.Machines || later.Machines
	if c.Units == nil {
		c.Units = map[string]struct{}{}
	}
	for name := range later.Units {
		c.Units[name] = struct{}{}
	}
}

// note takes in the change of one key, which is without the prefix.
func (c *Changes) note(key string) {
	dir, rest := splitKey(key)
	switch dir + "/" {
	case dirUnits, dirDone:
		c.Units[rest] = struct{}{}
	case dirAvoid:
		unit, _ := splitKey(rest)
		c.Units[unit] = struct{}{}
	case dirPlacements, dirStates:
		_, unit := splitKey(rest)
		c.Units[unit] = struct{}{}
	case dirMachines, dirKnown, dirMetadata, dirOrders:
		c.Machines = true
	}
	if key == keyRebalance {
		c.Machines = true
	}
}

// Follower takes views one after the other and is told what changed between
// them.
type Follower struct {
	mirror  *Mirror
	pending Changes
}

// Follow returns a follower, for whom at first all is changed.
func (m *Mirror) Follow() *Follower {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := &Follower{mirror: m, pending: Changes{All: true, Units: map[string]struct{}{}}}
	m.followers[f] = true
	return f
}

// Next returns the newest view, and what changed since the one before.
func (f *Follower) Next() (*View, Changes) {
	f.mirror.mu.Lock()
	defer f.mirror.mu.Unlock()
	c := f.pending
	f.pending = Changes{Units: map[string]struct{}{}}
	return f.mirror.view, c
}

// Close ends it.
func (f *Follower) Close() {
	f.mirror.mu.Lock()
	defer f.mirror.mu.Unlock()
	delete(f.mirror.followers, f)
}

// tell notes for all followers what a change of the store is about.
func (m *Mirror) tell(c change) {
	for f := range m.followers {
		if c.snapshot {
			f.pending = Changes{All: true, Units: map[string]struct{}{}}
			continue
		}
		for _, ev := range c.events {
			f.pending.note(strings.TrimPrefix(string(ev.Kv.Key), m.store.prefix))
		}
	}
}
