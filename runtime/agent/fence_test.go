package agent

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"plasmid/runtime/store"
)

const (
	single    = plain + "[X-Plasmid]\nSingleton=yes\n"
	claimTime = 15 * time.Second
)

// leases is the store's side of claims: keys on leases that end.
type leases struct {
	mu      sync.Mutex
	expires map[string]time.Time // of a machine's lease
	holder  map[string]string    // of a unit
}

func (l *leases) holds(unit string) string {
	m := l.holder[unit]
	if !time.Now().Before(l.expires[m]) {
		return ""
	}
	return m
}

// fakeClaims are one machine's, which may be cut off.
type fakeClaims struct {
	leases  *leases
	machine string
	mu      sync.Mutex
	off     bool
}

func (c *fakeClaims) cut(off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
}

func (c *fakeClaims) call(ctx context.Context, f func(l *leases) error) error {
	c.mu.Lock()
	off := c.off
	c.mu.Unlock()
	if off {
		<-ctx.Done()
		return ctx.Err()
	}
	c.leases.mu.Lock()
	defer c.leases.mu.Unlock()
	return f(c.leases)
}

func (c *fakeClaims) Renew(ctx context.Context) error {
	return c.call(ctx, func(l *leases) error {
		if e, ok := l.expires[c.machine]; ok && !time.Now().Before(e) {
			delete(l.expires, c.machine)
			for u, m := range l.holder {
				if m == c.machine {
					delete(l.holder, u)
				}
			}
			return store.ErrClaimsLost
		}
		l.expires[c.machine] = time.Now().Add(claimTime)
		return nil
	})
}

func (c *fakeClaims) Acquire(ctx context.Context, unit string) (holder string, err error) {
	err = c.call(ctx, func(l *leases) error {
		if holder = l.holds(unit); holder == "" || holder == c.machine {
			l.holder[unit], holder = c.machine, ""
		}
		return nil
	})
	return holder, err
}

func (c *fakeClaims) Release(ctx context.Context, unit string) error {
	return c.call(ctx, func(l *leases) error {
		if l.holder[unit] == c.machine {
			delete(l.holder, unit)
		}
		return nil
	})
}

func (c *fakeClaims) AwaitFree(ctx context.Context, unit string) error {
	for {
		free := false
		if err := c.call(ctx, func(l *leases) error { free = l.holds(unit) == ""; return nil }); err != nil || free {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pair is two machines that both are told to run the same singleton. The test
// fails when it begins to start on one while anything of it runs on the other.
type pair struct {
	a, b             *box
	claimsA, claimsB *fakeClaims
}

func newPair(t *testing.T) *pair {
	l := &leases{expires: map[string]time.Time{}, holder: map[string]string{}}
	p := &pair{a: newBox(t), b: newBox(t), claimsA: &fakeClaims{leases: l, machine: "m1"}, claimsB: &fakeClaims{leases: l, machine: "m2"}}
	p.b.id = "m2"
	p.a.claims, p.b.claims = p.claimsA, p.claimsB
	never := func(other *box) func(string) {
		return func(name string) {
			if other.systemd.runs(name) {
				t.Errorf("%s is started on a second machine", name)
			}
		}
	}
	p.a.systemd.started, p.b.systemd.started = never(p.b), never(p.a)
	return p
}

// G3, whatever an engine decides: of two machines that are told to run it one
// does; the other takes over when that one stops.
func TestASingletonRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.agent()
		other, _ := p.b.agent()
		p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
		p.b.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
		time.Sleep(time.Minute)
		p.a.did("install u.service", "start u.service", "started u.service")
		p.b.did("install u.service")
		if s := state(other, "u.service"); !strings.Contains(s.Message, "it may still run on machine m1") {
			t.Errorf("the one that waits says %q", s.Message)
		}
		p.a.systemd.stopping["u.service"] = 10 * time.Second
		p.a.say(without(2, "u.service"))
		time.Sleep(9 * time.Second)
		p.b.did()
		time.Sleep(2 * time.Second)
		p.a.did("stop u.service", "stopped u.service", "remove u.service")
		p.b.did("start u.service", "started u.service")
	})
}

// A machine that is cut off stops its singleton before the store gives it to
// another, also if the unit does not want to stop, and also if its daemon is
// killed meanwhile.
func TestASingletonUnderPartition(t *testing.T) {
	for _, stops := range []time.Duration{0, time.Second, time.Hour} {
		for _, restart := range []time.Duration{0, time.Second, 5 * time.Second, 10 * time.Second} {
			t.Run(fmt.Sprintf("it stops in %v, daemon killed after %v", stops, restart), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t)
					a, crash := p.a.agent()
					p.b.agent()
					p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
					p.b.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
					time.Sleep(time.Minute)
					p.a.systemd.stopping["u.service"] = stops
					cut := time.Now()
					p.claimsA.cut(true)
					if restart > 0 {
						time.Sleep(restart)
						crash()
						a, _ = p.a.agent()
					}
					for p.a.systemd.runs("u.service") {
						time.Sleep(100 * time.Millisecond)
					}
					if took := time.Since(cut); took > claimTime {
						t.Errorf("it ran on for %v", took)
					}
					for !p.b.systemd.runs("u.service") {
						time.Sleep(100 * time.Millisecond)
					}
					if took := time.Since(cut); took > claimTime+time.Second {
						t.Errorf("another started it only after %v", took)
					}
					// It comes back, hears that it has lost it, and leaves it alone.
					p.claimsA.cut(false)
					time.Sleep(time.Minute)
					if p.a.systemd.runs("u.service") || !p.b.systemd.runs("u.service") {
						t.Error("it moved back")
					}
					if s := state(a, "u.service"); !strings.Contains(s.Message, "m2") {
						t.Errorf("the machine that lost it says %q", s.Message)
					}
				})
			})
		}
	}
}

// A short silence of the store stops nothing; a long one stops the singleton and
// nothing else, and it comes back with the store.
func TestASingletonAndASlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.agent()
		p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1), placement("v.service", plain, store.Launched, 1)))
		time.Sleep(time.Minute + 100*time.Millisecond) // between two renewals
		p.a.systemd.log.take()
		p.claimsA.cut(true)
		time.Sleep(4 * time.Second)
		p.claimsA.cut(false)
		time.Sleep(time.Minute)
		p.a.did()
		p.claimsA.cut(true)
		time.Sleep(time.Hour)
		p.a.did("stop u.service", "stopped u.service")
		p.claimsA.cut(false)
		time.Sleep(time.Minute)
		p.a.did("start u.service", "started u.service")
	})
}

// A daemon that restarts leaves its singleton alone.
func TestASingletonIsAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		_, crash := p.a.agent()
		p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
		time.Sleep(time.Minute)
		p.a.systemd.log.take()
		crash()
		time.Sleep(3 * time.Second)
		p.a.agent()
		p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
		time.Sleep(time.Minute)
		p.a.did()
	})
}

func TestRetriesHere(t *testing.T) {
	const text = plain + "[X-Plasmid]\nRetries=3/10m\n"
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.systemd.fails["u.service"] = true
		a, _ := b.agent()
		b.say(snapshot(1, placement("u.service", text, store.Launched, 1)))
		time.Sleep(time.Minute)
		b.did("install u.service", "start u.service", "failed u.service", "start u.service", "failed u.service",
			"start u.service", "failed u.service", "start u.service", "failed u.service")
		if s := state(a, "u.service"); !s.GaveUp || !strings.Contains(s.Message, "started 3 more times within 10m0s") {
			t.Errorf("state is %+v", s)
		}
		time.Sleep(time.Hour)
		b.did()
	})
}

// One that runs for a while and fails is started again, as long as that does not
// happen too often.
func TestRetriesOfAUnitThatRuns(t *testing.T) {
	const text = plain + "[X-Plasmid]\nRetries=2/10m\n"
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		a, _ := b.agent()
		b.say(snapshot(1, placement("u.service", text, store.Launched, 1)))
		for range 5 {
			b.systemd.end("u.service", "failed")
			time.Sleep(6 * time.Minute)
			synctest.Wait()
			if s := state(a, "u.service"); s.Active != "active" {
				t.Fatalf("state is %+v", s)
			}
		}
		for range 3 {
			b.systemd.end("u.service", "failed")
			time.Sleep(30 * time.Second)
			synctest.Wait()
		}
		if s := state(a, "u.service"); !s.GaveUp {
			t.Errorf("state is %+v", s)
		}
	})
}

// What has run to its end says so.
func TestEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		a, _ := b.agent()
		b.say(snapshot(1, placement("u.service", plain+"[X-Plasmid]\nRunOnce=yes\n", store.Launched, 1)))
		if state(a, "u.service").Ended {
			t.Error("it runs and has ended")
		}
		b.systemd.end("u.service", "inactive")
		synctest.Wait()
		if s := state(a, "u.service"); !s.Ended || s.Active != "inactive" {
			t.Errorf("state is %+v", s)
		}
	})
}

// What systemd said before the start is no end.
func TestAStartIsNoEnd(t *testing.T) {
	for _, lags := range []time.Duration{0, 3 * time.Millisecond, 20 * time.Millisecond} {
		t.Run(lags.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				b.systemd.lags = lags
				b.systemd.queued, b.systemd.starting["u.service"] = 10*time.Millisecond, 5*time.Millisecond
				a, _ := b.agent()
				b.say(snapshot(1, placement("u.service", plain+"[X-Plasmid]\nRunOnce=yes\n", store.Launched, 1)))
				for range 200 {
					if s := state(a, "u.service"); s.Ended {
						t.Fatalf("it was started and is said to have ended: %+v", s)
					}
					b.systemd.news("u.service")
					time.Sleep(time.Millisecond)
				}
				if s := state(a, "u.service"); s.Active != "active" {
					t.Errorf("state is %+v", s)
				}
				b.systemd.end("u.service", "inactive")
				time.Sleep(time.Second)
				if s := state(a, "u.service"); !s.Ended {
					t.Errorf("it has ended, and state is %+v", s)
				}
			})
		})
	}
}
