package engine

import (
	"sync/atomic"

	"plasmid/runtime/schedule"
)

// counts is what an engine did since the daemon was started.
type counts struct {
	since                    atomic.Int64
	passes, failures         atomic.Uint64
	placed, updated, removed atomic.Uint64
}

// Counts is a copy of them.
type Counts struct {
	Since     int64 // when this machine began to lead, in seconds of Unix time; 0: it does not lead
	Passes    uint64
	Failures  uint64
	Decisions map[schedule.Op]uint64
}

// Counts tells what this engine did.
func (e *Engine) Counts() Counts {
	c := &e.counts
	return Counts{
		Since: c.since.Load(), Passes: c.passes.Load(), Failures: c.failures.Load(),
		Decisions: map[schedule.Op]uint64{schedule.Place: c.placed.Load(), schedule.Update: c.updated.Load(), schedule.Remove: c.removed.Load()},
	}
}

func (c *counts) decided(ds []schedule.Decision) {
	for _, d := range ds {
		switch d.Op {
		case schedule.Place:
			c.placed.Add(1)
		case schedule.Update:
			c.updated.Add(1)
		case schedule.Remove:
			c.removed.Add(1)
		}
	}
}
