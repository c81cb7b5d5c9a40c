package systemd

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"
)

func TestUnitPath(t *testing.T) {
	for name, want := range map[string]dbus.ObjectPath{
		"a.service":        "/org/freedesktop/systemd1/unit/a_2eservice",
		"1a@x-1.service":   "/org/freedesktop/systemd1/unit/_31a_40x_2d1_2eservice",
		`q\x2d_:é.service`: "/org/freedesktop/systemd1/unit/q_5cx2d_5f_3a_c3_a9_2eservice",
	} {
		if got := unitPath(name); got != want {
			t.Errorf("%s: %s; want %s", name, got, want)
		}
		if got, ok := unitOf(want); !ok || got != name {
			t.Errorf("%s: back: %q, %v", want, got, ok)
		}
	}
	for _, p := range []dbus.ObjectPath{"/org/freedesktop/systemd1/job/1", "/org/freedesktop/systemd1/unit/a_2", "/org/freedesktop/systemd1/unit/a_zz"} {
		if name, ok := unitOf(p); ok {
			t.Errorf("%s is taken for unit %q", p, name)
		}
	}
}

// Jobs can end before the call that made them has returned.
func TestJobThatEndsEarly(t *testing.T) {
	var j jobs
	j.begin()
	j.ended("/job/1", "done")
	select {
	case got := <-j.queued("/job/1"):
		if got != "done" {
			t.Errorf("got %q", got)
		}
	default:
		t.Error("the result was lost")
	}
	if j.early != nil || len(j.waiting) != 0 {
		t.Errorf("left over: %v %v", j.early, j.waiting)
	}
	// Two may wait for one job; who gave up is not kept.
	j.begin()
	j.begin()
	a, b := j.queued("/job/2"), j.queued("/job/2")
	j.forget("/job/2", a)
	j.ended("/job/2", "failed")
	if got := <-b; got != "failed" || len(a) != 0 || len(j.waiting) != 0 {
		t.Errorf("got %q, %d, %v", got, len(a), j.waiting)
	}
}

func TestNewsKeepsEachNameOnce(t *testing.T) {
	n := newNews()
	for range 3 {
		n.add("a.service")
	}
	n.add("b.service")
	<-n.arrived
	if got := n.take(); len(got) != 2 {
		t.Errorf("got %v", got)
	}
	n.add("a.service")
	n.add(all)
	if got := n.take(); len(got) != 1 || got[0] != all {
		t.Errorf("got %v", got)
	}
}

// However many ask while a reload runs, one more serves them all.
func TestReloadsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count atomic.Int32
		r := reloader{reload: func(context.Context) error {
			count.Add(1)
			time.Sleep(time.Second)
			return nil
		}}
		start := time.Now()
		ends := make(chan time.Duration, 10)
		for range 10 {
			go func() {
				if err := r.do(t.Context()); err != nil {
					t.Error(err)
				}
				ends <- time.Since(start)
			}()
		}
		for range 10 {
			if d := <-ends; d > 2*time.Second {
				t.Errorf("one waited %v", d)
			}
		}
		if n := count.Load(); n > 2 {
			t.Errorf("%d reloads", n)
		}
	})
}

// Who asks while a reload runs is not served by that one: it may have read the
// file before it was written.
func TestReloadBeginsAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count atomic.Int32
		r := reloader{reload: func(context.Context) error {
			time.Sleep(time.Second)
			count.Add(1)
			return nil
		}}
		go r.do(t.Context())
		time.Sleep(500 * time.Millisecond)
		if err := r.do(t.Context()); err != nil || count.Load() != 2 {
			t.Errorf("%v after %d reloads", err, count.Load())
		}
	})
}
