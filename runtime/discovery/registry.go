package discovery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	storeTimeout = 5 * time.Second        // of one write
	atOnce       = 16                     // writes under way
	firstRetry   = 200 * time.Millisecond // after a failed write
	lastRetry    = 2 * time.Second
)

// registry brings the keys in the store to those that the ready units want,
// and tries until they are: while the store is away nothing is lost and nobody
// waits.
type registry struct {
	log     *slog.Logger
	changed chan struct{}

	mu        sync.Mutex
	registrar Registrar
	units     map[string]map[string]string // by unit: key → value
	stored    map[string]string            // what is in the store; absent: unknown, or not there
	stale     map[string]bool              // may be in the store and must go
	asked     uint64                       // counts changes
	waiting   map[uint64]chan struct{}     // for all changes up to that one to be written
}

func newRegistry(log *slog.Logger) *registry {
	return &registry{
		log: log, changed: make(chan struct{}, 1), units: map[string]map[string]string{},
		stored: map[string]string{}, stale: map[string]bool{}, waiting: map[uint64]chan struct{}{},
	}
}

// use makes r the one that is written to. It has nothing yet.
func (g *registry) use(r Registrar) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.registrar = r
	clear(g.stored)
	g.signal()
}

func (g *registry) signal() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// want sets the keys of a unit. What is returned is closed when the store has
// it so.
func (g *registry) want(unit string, keys map[string]string) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(keys) == 0 && len(g.units[unit]) == 0 {
		return closed
	}
	for key := range g.units[unit] {
		g.stale[key] = true
	}
	if delete(g.units, unit); len(keys) > 0 {
		g.units[unit] = keys
	}
	if g.registrar == nil {
		return closed // nobody was told of the keys
	}
	g.asked++
	done := make(chan struct{})
	g.waiting[g.asked] = done
	g.signal()
	return done
}

func (g *registry) has(key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.all()[key]
	return ok
}

// all are the keys of all units. g.mu is held.
func (g *registry) all() map[string]string {
	all := map[string]string{}
	for _, keys := range g.units {
		for k, v := range keys {
			all[k] = v
		}
	}
	return all
}

func (g *registry) run(ctx context.Context) {
	retry := firstRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.changed:
		}
		if err := g.write(ctx); err == nil || ctx.Err() != nil {
			retry = firstRetry
			continue
		} else {
			g.log.Warn("registrations could not be written; trying again", "after", retry, "err", err)
		}
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		retry = min(2*retry, lastRetry)
		g.mu.Lock()
		g.signal()
		g.mu.Unlock()
	}
}

// write brings the store to what is wanted now.
func (g *registry) write(ctx context.Context) error {
	g.mu.Lock()
	r, upTo := g.registrar, g.asked
	if r == nil {
		g.mu.Unlock()
		return nil // the first session writes all
	}
	want := g.all()
	put, remove := map[string]string{}, []string{}
	for k, v := range want {
		if have, ok := g.stored[k]; !ok || have != v {
			put[k] = v
		}
		delete(g.stale, k)
	}
	for k := range g.stale {
		remove = append(remove, k)
	}
	g.mu.Unlock()

	var writes errgroup.Group
	writes.SetLimit(atOnce)
	for _, k := range remove {
		writes.Go(func() error {
			wctx, cancel := context.WithTimeout(ctx, storeTimeout)
			defer cancel()
			err := r.Unregister(wctx, k)
			g.note(r, err, func() { delete(g.stale, k); delete(g.stored, k) })
			return err
		})
	}
	for k, v := range put {
		writes.Go(func() error {
			wctx, cancel := context.WithTimeout(ctx, storeTimeout)
			defer cancel()
			err := r.Register(wctx, k, v)
			g.note(r, err, func() { g.stored[k] = v })
			return err
		})
	}
	if err := writes.Wait(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, done := range g.waiting {
		if n <= upTo {
			close(done)
			delete(g.waiting, n)
		}
	}
	return nil
}

// note keeps what a write has done, unless there is another registrar since.
func (g *registry) note(r Registrar, err error, done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil && g.registrar == r {
		done()
	}
}
