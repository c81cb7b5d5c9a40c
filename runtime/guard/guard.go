package guard

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

// Parts of a claim's time. The agent stops its singletons earlier and kills them
// at the same time: what the guard finds running then is what the agent left.
const (
	stopAfter = 0.7
	killAfter = 0.9
	// again is how soon it is looked once more while claims are not renewed.
	again = time.Second / 2
	// unclaimed is how soon it is looked for a note where there is none.
	unclaimed = time.Second
)

// Unit is a singleton of this machine.
type Unit interface {
	Name() string
	// Runs reports whether anything of it runs, its container included.
	Runs(ctx context.Context) (bool, error)
	// Stop asks it to stop, and does not wait for that.
	Stop(ctx context.Context) error
	// Kill ends it and its container at once.
	Kill(ctx context.Context) error
}

// Guard stops singletons whose time is over.
type Guard struct {
	Dir      string                 // with the note
	Boottime func() time.Duration   // see Boottime
	Units    func() ([]Unit, error) // the singletons that are installed
	Logger   *slog.Logger

	mu   sync.Mutex
	told map[string]string // what was last logged of a unit
}

// Run works until ctx ends. It sleeps until the claims' time would be over, so a
// machine at rest is not disturbed.
func (g *Guard) Run(ctx context.Context) {
	var last Note // whose end was told of
	for ctx.Err() == nil {
		note, err := Read(g.Dir)
		pause := unclaimed
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Nothing was claimed since the machine booted.
		case err != nil:
			g.Logger.Error("when the claims to singletons end is not known: they are stopped", "err", err)
			g.stop(ctx, note, false)
		default:
			age := g.Boottime() - note.Renewed
			if left := part(note, stopAfter) - age; left > 0 && age >= 0 {
				pause = left
				break
			}
			if note != last {
				g.Logger.Warn("the claims to singletons were not renewed in time", "age", age, "of", note.Lasts)
				last = note
				clear(g.told)
			}
			kill := age < 0 || age >= part(note, killAfter)
			g.stop(ctx, note, kill)
			pause = again
			if left := part(note, killAfter) - age; !kill && left < pause {
				pause = left
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func part(n Note, of float64) time.Duration { return time.Duration(of * float64(n.Lasts)) }

// stop has every singleton that runs stopped, or killed, none waiting for
// another, if the note still is what it was.
func (g *Guard) stop(ctx context.Context, note Note, kill bool) {
	units, err := g.Units()
	if err != nil {
		g.Logger.Error("the machine's singletons can't be listed", "err", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, u := range units {
		all.Go(func() {
			runs, err := u.Runs(ctx)
			if err == nil && !runs {
				return
			}
			// What was started after a renewal was so after its note.
			if now, err := Read(g.Dir); err == nil && now != note {
				return
			}
			// Before it stops, so that the agent does not take it for one that
			// has ended by itself.
			if err := stopped(g.Dir, u.Name()); err != nil {
				g.Logger.Error("that a singleton is stopped could not be noted: it may not be started again", "unit", u.Name(), "err", err)
			}
			do, what := u.Stop, "a singleton is stopped, because its claim is about to end"
			if kill {
				do, what = u.Kill, "a singleton is killed, because its claim is about to end"
			}
			if g.isNews(u.Name(), what) {
				g.Logger.Error(what, "unit", u.Name())
			}
			if err := do(ctx); err != nil {
				g.Logger.Error("a singleton could not be stopped", "unit", u.Name(), "err", err)
			}
		})
	}
	all.Wait()
}

// isNews reports whether something is told of a unit for the first time.
func (g *Guard) isNews(unit, what string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.told[unit] == what {
		return false
	}
	if g.told == nil {
		g.told = map[string]string{}
	}
	g.told[unit] = what
	return true
}
