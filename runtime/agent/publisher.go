package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"plasmid/runtime/store"
)

// gather is how long changes of state are collected before they are written
// together. It is a small part of what starting a unit takes.
const gather = 10 * time.Millisecond

// publisher writes the states of units to the store: on change only, and all
// of them with a new session.
type publisher struct {
	log *slog.Logger

	mu      sync.Mutex
	ss      *store.Session
	states  map[string]store.State // the newest of every unit
	dirty   map[string]bool        // not yet written; gone from states: to be deleted
	changed chan struct{}
}

func newPublisher(log *slog.Logger) *publisher {
	return &publisher{log: log, states: map[string]store.State{}, dirty: map[string]bool{}, changed: make(chan struct{}, 1)}
}

// session makes a session the one that is written to.
func (p *publisher) session(ss *store.Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ss = ss
	for u := range p.states {
		p.dirty[u] = true
	}
	p.signal()
}

func (p *publisher) signal() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// put notes a unit's state.
func (p *publisher) put(s store.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.states[s.Unit]; ok && old == s {
		return
	}
	p.states[s.Unit] = s
	p.dirty[s.Unit] = true
	p.signal()
}

// remove notes that the machine no longer has the unit.
func (p *publisher) remove(unit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.states, unit)
	p.dirty[unit] = true
	p.signal()
}

// has reports whether the machine has the unit.
func (p *publisher) has(unit string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.states[unit]
	return ok
}

func (p *publisher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gather):
		}
		if err := p.write(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("states could not be written; trying again", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			p.mu.Lock()
			p.signal()
			p.mu.Unlock()
		}
	}
}

// write sends what is dirty. What changes meanwhile is dirty again.
func (p *publisher) write(ctx context.Context) error {
	p.mu.Lock()
	ss := p.ss
	var put []store.State
	var gone []string
	for u := range p.dirty {
		if s, ok := p.states[u]; ok {
			put = append(put, s)
		} else {
			gone = append(gone, u)
		}
	}
	if ss == nil {
		p.mu.Unlock()
		return nil // the next session writes all
	}
	clear(p.dirty)
	p.mu.Unlock()

	err := ss.PutStates(ctx, put)
	if err == nil {
		err = ss.DeleteStates(ctx, gone)
	}
	if err != nil {
		p.mu.Lock()
		for _, s := range put {
			p.dirty[s.Unit] = true
		}
		for _, u := range gone {
			p.dirty[u] = true
		}
		p.mu.Unlock()
	}
	return err
}
