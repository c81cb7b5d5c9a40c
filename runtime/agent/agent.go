// Package agent is what a machine does about its placements: it installs,
// starts, stops and removes units, and tells the store what became of them.
//
// DESIGN.md says why it is built as it is.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"plasmid/runtime/discovery"
	"plasmid/runtime/guard"
	"plasmid/runtime/store"
	"plasmid/runtime/systemd"
	"plasmid/runtime/unit"
)

// Store is what an agent needs of the store.
type Store interface {
	Admits(ctx context.Context, m store.Machine) error
	FollowPlacements(ctx context.Context, machine string, f func(store.PlacementUpdate)) error
	Join(ctx context.Context, m store.Machine, ttl time.Duration) (*store.Session, error)
}

// Systemd is what an agent needs of systemd.
type Systemd interface {
	Changes(ctx context.Context, f func(unit string)) error
	State(ctx context.Context, name string) (systemd.State, error)
	Current(ctx context.Context, name string) (bool, error)
	Start(ctx context.Context, name string) (systemd.Wait, error)
	Stop(ctx context.Context, name string) (systemd.Wait, error)
	Restart(ctx context.Context, name string) (systemd.Wait, error)
	Kill(ctx context.Context, name string) error
	Install(ctx context.Context, name, text string, enable bool) error
	Disable(ctx context.Context, name string) error
	Remove(ctx context.Context, name string, enabled bool) error
	Installed() (map[string]string, error)
}

// Images fetches what units run from.
type Images interface {
	Ensure(ctx context.Context, ref string) error
}

// Apps gives apps access to their own keys.
type Apps interface {
	Ensure(ctx context.Context, app string) error
}

// Config of an agent.
type Config struct {
	Machine    store.Machine
	Store      Store
	Systemd    Systemd
	Containers discovery.Containers
	Images     Images
	Apps       Apps
	Dir        string // where the last wish is kept
	RunDir     string // kept until the machine reboots; default DefaultRunDir
	Lease      time.Duration
	Claims     Claims // to singletons
	// KillContainer ends a container whose unit was killed; nil: there are none.
	KillContainer func(ctx context.Context, name string) error
	// Guard has the process run that stops singletons when this one does not;
	// nil: there is none.
	Guard     func(ctx context.Context) error
	ClaimTime time.Duration // of their lease; default three times Lease
	// Boottime is the time since the machine booted; default: the kernel's.
	Boottime func() time.Duration
	Logger   *slog.Logger
	// OnSession is called with every new session.
	OnSession func(*store.Session)
}

// DefaultRunDir is where it is noted which units were started.
const DefaultRunDir = "/run/plasmid/started"

// Agent runs one machine.
type Agent struct {
	Config
	discovery *discovery.Discovery
	publisher *publisher
	marks     marks
	fence     *fence

	mu       sync.Mutex
	wish     wish
	distrust string             // why the store is not believed; empty: it is
	renew    context.CancelFunc // has the placements listed anew
	workers  map[string]*worker
	wg       sync.WaitGroup
	ctx      context.Context
}

// New returns an agent that has read its last wish.
func New(c Config) (*Agent, error) {
	if c.RunDir == "" {
		c.RunDir = DefaultRunDir
	}
	a := &Agent{Config: c, workers: map[string]*worker{}, marks: marks{c.RunDir, c.Logger}}
	if a.ClaimTime == 0 {
		a.ClaimTime = 3 * a.Lease
	}
	if a.Boottime == nil {
		a.Boottime = guard.Boottime
	}
	a.fence = newFence(a)
	a.publisher = newPublisher(c.Logger)
	a.discovery = discovery.New(discovery.Facts{
		MachineID: c.Machine.ID, Name: c.Machine.Name, PrivateIPv4: c.Machine.PrivateIPv4, PublicIPv4: c.Machine.PublicIPv4,
	}, c.Containers, c.Logger, a.readiness)
	var err error
	a.wish, err = loadWish(c.Dir, c.Logger)
	return a, err
}

// Run works until ctx ends. Units run on when it returns.
func (a *Agent) Run(ctx context.Context) error {
	a.ctx = ctx
	if err := a.adopt(); err != nil {
		return err
	}
	var g sync.WaitGroup
	g.Go(func() { a.sessions(ctx) })
	g.Go(func() { a.publisher.run(ctx) })
	g.Go(func() { a.discovery.Run(ctx) })
	g.Go(func() { a.follow(ctx) })
	if a.Claims != nil {
		g.Go(func() { a.fence.run(ctx) })
	}
	g.Go(func() { _ = a.Systemd.Changes(ctx, a.changed) })
	<-ctx.Done()
	g.Wait()
	a.wg.Wait()
	return nil
}

// adopt takes over the units that run: those of the last wish whose files are
// as it says are left alone. After a reboot there are no files, and nothing is
// started before the store says that it is still wanted here: the machine may
// have been taken for gone meanwhile.
func (a *Agent) adopt() error {
	installed, err := a.Systemd.Installed()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, text := range installed {
		if spec, err := unit.SpecOf(name, text); err == nil && spec.Singleton && a.Claims != nil {
			a.fence.adopt(name)
		}
		w := a.worker(name)
		w.setInstalled(text)
		if p, ok := a.wish.Placements[name]; ok {
			w.want(&p)
		}
		// A file that nobody wishes for is removed when the store confirms.
	}
	a.Logger.Info("adopted units", "installed", len(installed), "wished", len(a.wish.Placements))
	return nil
}

// admitRetry is how soon it is asked again whether placements are this
// machine's.
const admitRetry = time.Second

// worker returns the unit's worker, and makes it if there is none. a.mu is
// held.
func (a *Agent) worker(name string) *worker {
	w := a.workers[name]
	if w == nil {
		w = newWorker(a, name)
		a.workers[name] = w
		a.wg.Go(w.run)
		a.wg.Go(w.observe)
	}
	return w
}

// follow takes the placements from the store until ctx ends. A machine that was
// cloned from another takes none: they are the other's, which runs them already.
func (a *Agent) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.Store.Admits(ctx, a.Machine); err != nil {
			// Why is said where joining fails.
			select {
			case <-ctx.Done():
			case <-time.After(admitRetry):
			}
			continue
		}
		fctx, cancel := context.WithCancel(ctx)
		a.mu.Lock()
		a.renew = cancel
		a.mu.Unlock()
		_ = a.Store.FollowPlacements(fctx, a.Machine.ID, a.take)
		cancel()
	}
}

// take carries a change of the placements into the wish and to the workers.
func (a *Agent) take(u store.PlacementUpdate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if u.Snapshot {
		a.distrust = a.wish.doubt(u)
	} else if a.distrust == "" {
		a.distrust = a.wish.doubt(u)
	}
	if a.distrust != "" {
		// What changes there later means nothing either: only a whole list
		// that is credible does.
		a.Logger.Error("the store is not believed; units stay as they are", "why", a.distrust)
		return
	}
	before := a.wish.Placements
	a.wish.apply(u)
	if err := a.wish.save(a.Dir); err != nil {
		a.Logger.Error("the wish could not be kept; after a crash an older one holds", "err", err)
	}
	for name, p := range a.wish.Placements {
		if old, ok := before[name]; !ok || old.Revision != p.Revision || a.workers[name] == nil || u.Snapshot {
			a.worker(name).want(&p)
		}
	}
	for name := range before {
		if _, still := a.wish.Placements[name]; !still {
			a.worker(name).want(nil)
		}
	}
	if !u.Snapshot {
		return
	}
	for name, w := range a.workers {
		if _, wished := a.wish.Placements[name]; !wished {
			w.want(nil)
		}
	}
}

// changed is called when systemd says that a unit is in another state. An
// empty name means any unit.
func (a *Agent) changed(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if name == "" {
		for _, w := range a.workers {
			w.look()
		}
	} else if w := a.workers[name]; w != nil {
		w.look()
	}
}

// readiness is called when a unit has become ready, or is so no longer.
func (a *Agent) readiness(name string, ready bool, why error) {
	a.mu.Lock()
	w := a.workers[name]
	a.mu.Unlock()
	if w != nil {
		w.setReady(ready, why)
	}
}

// done forgets a worker whose unit is gone, unless it is wished for again.
func (a *Agent) done(w *worker) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.wanted() != nil {
		return false
	}
	delete(a.workers, w.name)
	w.vanish()
	return true
}

// ErrNotHere means that the machine does not have the unit.
var ErrNotHere = errors.New("this machine does not have the unit")

// Restart stops and starts a unit that is placed here.
func (a *Agent) Restart(ctx context.Context, name string) error {
	a.mu.Lock()
	w := a.workers[name]
	a.mu.Unlock()
	if w == nil || w.wanted() == nil {
		return ErrNotHere
	}
	return w.restart(ctx)
}

// sessions keeps the machine in the store.
func (a *Agent) sessions(ctx context.Context) {
	const firstRetry, lastRetry = 200 * time.Millisecond, 2 * time.Second
	retry, again := firstRetry, false
	for ctx.Err() == nil {
		ss, err := a.Store.Join(ctx, a.Machine, a.Lease)
		if err != nil {
			a.Logger.Error("joining the cluster failed; trying again", "after", retry, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(retry):
			}
			retry = min(2*retry, lastRetry)
			continue
		}
		retry = firstRetry
		a.publisher.session(ss)
		a.discovery.SetRegistrar(ss)
		if again {
			// The store may be another than before, or have been away: the
			// placements are listed anew.
			a.mu.Lock()
			if a.renew != nil {
				a.renew()
			}
			a.mu.Unlock()
		}
		again = true
		if a.OnSession != nil {
			a.OnSession(ss)
		}
		go a.sweep(ctx, ss)
		select {
		case <-ctx.Done():
			// The lease runs on: the next process takes it over.
			ss.Abandon()
		case <-ss.Done():
		}
	}
}

// settle is how long units have to be found ready again by a new process.
const settle = 10 * time.Second

// sweep takes away what a process before had registered and what no longer
// holds.
func (a *Agent) sweep(ctx context.Context, ss *store.Session) {
	select {
	case <-ctx.Done():
		return
	case <-ss.Done():
		return
	case <-time.After(settle):
	}
	err := ss.Sweep(ctx, func(key string) bool {
		if strings.HasPrefix(key, discovery.Prefix) {
			return a.discovery.Has(key)
		}
		if unit, ok := store.StateKey(key, a.Machine.ID); ok {
			return a.publisher.has(unit)
		}
		return true
	})
	if err != nil && ctx.Err() == nil {
		a.Logger.Warn("keys of before could not be swept", "err", err)
	}
}
