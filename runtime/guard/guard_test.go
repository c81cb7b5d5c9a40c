package guard

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestNote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no note: %v", err)
	}
	for _, n := range []Note{{time.Hour, 9 * time.Second}, {2 * time.Hour, 9 * time.Second}} {
		if err := n.Write(dir); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(dir); err != nil || got != n {
			t.Errorf("read %v, %v", got, err)
		}
	}
	for _, text := range []string{"", "12", "12 x", "12 0", "a b"} {
		if err := os.WriteFile(filepath.Join(dir, noteFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(dir); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

// unit runs until it is killed, and notes what was done to it.
type unit struct {
	mu    sync.Mutex
	did   []string
	ended bool
	begun time.Time
}

func (u *unit) do(what string, ends bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Contains(u.did, what+" after "+time.Since(u.begun).String()) {
		u.did = append(u.did, what+" after "+time.Since(u.begun).String())
	}
	u.ended = u.ended || ends
	return nil
}

func (u *unit) Name() string                       { return "u.service" }
func (u *unit) Runs(context.Context) (bool, error) { return !u.ended, nil }
func (u *unit) Stop(context.Context) error         { return u.do("stop", false) }
func (u *unit) Kill(context.Context) error         { return u.do("kill", true) }

// guarded runs a guard of a unit that does not heed its stop for a minute, after
// prepare has been called with the directory.
func guarded(t *testing.T, prepare func(dir string)) (u *unit, dir string) {
	t.Helper()
	dir = t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		u = &unit{begun: begun}
		g := &Guard{Dir: dir, Boottime: func() time.Duration { return time.Hour + time.Since(begun) },
			Units: func() ([]Unit, error) { return []Unit{u}, nil }, Logger: slog.New(slog.DiscardHandler)}
		prepare(dir)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		g.Run(ctx)
	})
	return u, dir
}

func write(t *testing.T, dir string, n Note) {
	t.Helper()
	if err := n.Write(dir); err != nil {
		t.Fatal(err)
	}
}

// It is stopped at 70 % of the time and killed at 90 %, and that is noted.
func TestGuard(t *testing.T) {
	u, dir := guarded(t, func(dir string) { write(t, dir, Note{time.Hour, 10 * time.Second}) })
	if len(u.did) < 2 || u.did[0] != "stop after 7s" || u.did[len(u.did)-1] != "kill after 9s" {
		t.Errorf("it did %q", u.did)
	}
	if !Has(dir, "u.service") || Has(dir, "v.service") {
		t.Error("that it was stopped was not noted")
	}
	if units, err := Stopped(dir); err != nil || !slices.Equal(units, []string{"u.service"}) {
		t.Errorf("stopped are %q, %v", units, err)
	}
	Forget(dir, "u.service")
	if units, err := Stopped(dir); err != nil || len(units) > 0 {
		t.Errorf("then %q, %v", units, err)
	}
}

func TestGuardWithoutANote(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(dir string)
		stops   bool
	}{
		{"nothing was claimed", func(string) {}, false},
		{"it can't be read", func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, noteFile), []byte("?"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"it is of the future", func(dir string) { write(t, dir, Note{2 * time.Hour, 10 * time.Second}) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if u, _ := guarded(t, c.prepare); (len(u.did) > 0) != c.stops {
				t.Errorf("it did %q", u.did)
			}
		})
	}
}
