package systemd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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

// However many ask while a call is under way, one more serves them all.
func TestCallsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count atomic.Int32
		s := shared[string]{call: func(_ context.Context, names []string) (map[string]string, error) {
			count.Add(1)
			time.Sleep(time.Second)
			return answers(names), nil
		}}
		start := time.Now()
		ends := make(chan time.Duration, 10)
		for i := range 10 {
			go func() {
				name := fmt.Sprint(i)
				if got, err := s.do(t.Context(), name); err != nil || got != "of "+name {
					t.Error(name, got, err)
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
			t.Errorf("%d calls", n)
		}
	})
}

func answers(names []string) map[string]string {
	out := map[string]string{}
	for _, n := range names {
		out[n] = "of " + n
	}
	return out
}

// Who asks while a call is under way is not served by that one: it may have
// been answered before what it asks about has changed.
func TestCallBeginsAfterTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count atomic.Int32
		s := shared[struct{}]{call: func(context.Context, []string) (map[string]struct{}, error) {
			time.Sleep(time.Second)
			count.Add(1)
			return map[string]struct{}{"": {}}, nil
		}}
		go s.do(t.Context(), "")
		time.Sleep(500 * time.Millisecond)
		if _, err := s.do(t.Context(), ""); err != nil || count.Load() != 2 {
			t.Errorf("%v after %d calls", err, count.Load())
		}
	})
}

// A unit for which the call fails spoils it for no other.
func TestOneBadNameSpoilsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shared[string]{call: func(_ context.Context, names []string) (map[string]string, error) {
			time.Sleep(time.Second)
			if slices.Contains(names, "bad") {
				return nil, errors.New("no such name")
			}
			return answers(names), nil
		}}
		go s.do(t.Context(), "first")
		time.Sleep(500 * time.Millisecond)
		var wg sync.WaitGroup
		for _, name := range []string{"a", "bad", "b"} {
			wg.Go(func() {
				got, err := s.do(t.Context(), name)
				if (name == "bad") != (err != nil) || err == nil && got != "of "+name {
					t.Error(name, got, err)
				}
			})
		}
		wg.Wait()
	})
}
