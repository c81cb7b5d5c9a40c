package reboot

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func limit(n int) *int { return &n }

func holder(id string) Holder {
	return Holder{Machine: id, Name: "m-" + id, Boot: "boot-" + id, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func operators(id string) Holder {
	h := holder(id)
	h.Operator = true
	return h
}

func TestTake(t *testing.T) {
	for _, c := range []struct {
		name       string
		have       Semaphore
		configured int
		full       string // the error; empty: taken
		want       Semaphore
	}{
		{"a free lock", Semaphore{}, 1, "", Semaphore{Holders: []Holder{holder("a")}}},
		{"again", Semaphore{Holders: []Holder{holder("a")}}, 1, "", Semaphore{Holders: []Holder{holder("a")}}},
		{"again, with a max that went down", Semaphore{Max: limit(0), Holders: []Holder{holder("a")}}, 1, "", Semaphore{Max: limit(0), Holders: []Holder{holder("a")}}},
		{"full", Semaphore{Holders: []Holder{holder("b")}}, 1, "the lock is held by m-b (since 2026-01-02T03:04:05Z)", Semaphore{}},
		{"room for two", Semaphore{Holders: []Holder{holder("b")}}, 2, "", Semaphore{Holders: []Holder{holder("b"), holder("a")}}},
		{"an operator's max is larger", Semaphore{Max: limit(2), Holders: []Holder{holder("b")}}, 1, "", Semaphore{Max: limit(2), Holders: []Holder{holder("b"), holder("a")}}},
		{"an operator's max is smaller", Semaphore{Max: limit(1), Holders: []Holder{holder("b")}}, 5, "the lock is held by m-b (since 2026-01-02T03:04:05Z)", Semaphore{}},
		{"stopped", Semaphore{Max: limit(0)}, 5, "reboots of the group are stopped: an operator set its max to 0", Semaphore{}},
		{"an operator's hold counts", Semaphore{Holders: []Holder{operators("b")}}, 1, "the lock is held by m-b (since 2026-01-02T03:04:05Z)", Semaphore{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.have.Take(holder("a"), c.configured)
			var full *FullError
			if c.full != "" {
				if !errors.As(err, &full) || err.Error() != c.full {
					t.Errorf("got error %v, want %s", err, c.full)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestHoldAndRelease(t *testing.T) {
	s, err := Semaphore{}.Take(holder("a"), 1)
	if err != nil {
		t.Fatal(err)
	}
	before := s
	held := s.Hold(holder("b"))
	if d := cmp.Diff(Semaphore{Holders: []Holder{holder("a"), operators("b")}}, held); d != "" {
		t.Error(d)
	}
	again := held.Hold(Holder{Machine: "b", Since: time.Now()})
	if d := cmp.Diff(held, again); d != "" {
		t.Error("a second hold changes the first:", d)
	}
	// The machine that has it by itself keeps since when.
	if d := cmp.Diff(Semaphore{Holders: []Holder{operators("a")}}, s.Hold(Holder{Machine: "a", Since: time.Now()})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(Semaphore{Holders: []Holder{operators("b")}}, held.Release("a")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(Semaphore{}, held.Release("a").Release("b").Release("c")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(before, s); d != "" {
		t.Error("a value was changed in place:", d)
	}
}
