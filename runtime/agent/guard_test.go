package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"plasmid/runtime/guard"
	"plasmid/runtime/store"
)

// guard runs the guard of the machine's singletons, which is all units here.
func (b *box) guard() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	g := &guard.Guard{
		Dir: filepath.Dir(b.run), Boottime: func() time.Duration { return time.Since(booted) },
		Units: func() ([]guard.Unit, error) {
			var out []guard.Unit
			installed, err := b.systemd.Installed()
			for name := range installed {
				out = append(out, guarded{b.systemd, name})
			}
			return out, err
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	go func() {
		defer close(done)
		g.Run(ctx)
	}()
	b.t.Cleanup(func() { cancel(); <-done })
}

type guarded struct {
	systemd *fakeSystemd
	name    string
}

func (u guarded) Name() string                       { return u.name }
func (u guarded) Runs(context.Context) (bool, error) { return u.systemd.runs(u.name), nil }
func (u guarded) Stop(ctx context.Context) error {
	_, err := u.systemd.Stop(ctx, u.name)
	return err
}
func (u guarded) Kill(ctx context.Context) error { return u.systemd.Kill(ctx, u.name) }

// A daemon that does nothing any more, be it that it hangs or was stopped, does
// not keep its singleton running beyond its claim. When it goes on, it leaves it
// to the machine that has it.
func TestASingletonWithoutItsDaemon(t *testing.T) {
	for _, stops := range []time.Duration{0, time.Second, time.Hour} {
		t.Run(fmt.Sprintf("it stops in %v", stops), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				_, crash := p.a.agent()
				p.a.guard()
				p.b.agent()
				p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
				p.b.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
				time.Sleep(time.Minute)
				p.a.systemd.stopping["u.service"] = stops
				crash()
				away := time.Now()
				for !p.b.systemd.runs("u.service") {
					time.Sleep(100 * time.Millisecond)
				}
				if took := time.Since(away); took > claimTime+time.Second {
					t.Errorf("another started it only after %v", took)
				}
				a, _ := p.a.agent()
				time.Sleep(time.Minute)
				if p.a.systemd.runs("u.service") {
					t.Error("it moved back")
				}
				if s := state(a, "u.service"); s.Ended || !strings.Contains(s.Message, "m2") {
					t.Errorf("the machine that lost it says %+v", s)
				}
			})
		})
	}
}

// What the guard has stopped is started again when the daemon goes on, if no
// other machine has it; a short absence of the daemon stops nothing.
func TestASingletonOfADaemonThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		_, crash := p.a.agent()
		p.a.guard()
		p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
		time.Sleep(time.Minute)
		p.a.systemd.log.take()
		for range 3 {
			crash()
			time.Sleep(claimTime / 2)
			_, crash = p.a.agent()
			time.Sleep(time.Minute)
		}
		p.a.did()
		crash()
		time.Sleep(5 * time.Minute)
		p.a.did("stop u.service", "stopped u.service")
		a, _ := p.a.agent()
		time.Sleep(time.Minute)
		// What is stopped already may be stopped once more before: a daemon that
		// comes back late does so if the store's answer comes after its own clock's.
		if did := p.a.systemd.log.take(); !slices.Equal(did[max(0, len(did)-2):], []string{"start u.service", "started u.service"}) {
			t.Errorf("the agent did %q", did)
		}
		if left, err := guard.Stopped(filepath.Dir(p.a.run)); err != nil || len(left) > 0 {
			t.Errorf("left of the guard's notes: %v, %v", left, err)
		}
		if s := state(a, "u.service"); s.Active != "active" || s.Ended {
			t.Errorf("state is %+v", s)
		}
	})
}

// The agent does as the guard does where both see that the store is away: the
// guard adds nothing, and stops nothing that was started again.
func TestTheGuardBesideTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		a, _ := p.a.agent()
		p.a.guard()
		p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
		for range 6 {
			time.Sleep(time.Minute + 700*time.Millisecond)
			p.a.systemd.log.take()
			p.claimsA.cut(true)
			time.Sleep(5 * time.Minute)
			p.a.did("stop u.service", "stopped u.service")
			p.claimsA.cut(false)
			time.Sleep(time.Minute)
			p.a.did("start u.service", "started u.service")
			if s := state(a, "u.service"); s.Active != "active" {
				t.Fatalf("state is %+v", s)
			}
		}
	})
}

// No singleton is started where nothing would stop it.
func TestNoSingletonWithoutAGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.guards = func(context.Context) error { return fmt.Errorf("no such unit") }
		a, _ := p.a.agent()
		p.a.say(snapshot(1, placement("u.service", single, store.Launched, 1)))
		time.Sleep(time.Minute)
		p.a.did("install u.service")
		if s := state(a, "u.service"); !strings.Contains(s.Message, "without what would stop it: no such unit") {
			t.Errorf("state is %+v", s)
		}
	})
}
