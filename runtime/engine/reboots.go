package engine

import (
	"context"
	"time"

	"plasmid/runtime/reboot"
	"plasmid/runtime/store"
)

// releaseReboots takes the reboot lock from machines that will not give it
// back: those that were forgotten, and those that are gone for longer than a
// reboot takes. It returns after what time it wants to be called again, 0 for
// not before something changes.
func (e *Engine) releaseReboots(ctx context.Context, l *store.Leadership, view *store.View, w *watchdog, book *reboot.Lost) (again time.Duration) {
	sooner := func(d time.Duration) {
		if d > 0 && (again == 0 || d < again) {
			again = d
		}
	}
	sight := func(id string) reboot.Sight {
		_, alive := view.Machines[id]
		_, known := view.Known[id]
		switch {
		case alive:
			return reboot.Present
		case !known:
			return reboot.Unknown
		case w.gone(id):
			return reboot.Gone
		}
		return reboot.Present
	}
	for group, lock := range view.Reboots {
		lost, next := book.Of(time.Now(), lock, sight)
		sooner(next)
		for _, h := range lost {
			// The watchdog does not ask on what is gone already.
			if m, known := view.Known[h.Machine]; known {
				pctx, cancel := context.WithTimeout(ctx, probeTimeout)
				err := e.Probe(pctx, m)
				cancel()
				if err == nil {
					book.Forget(h.Machine)
					sooner(time.Duration(h.PatienceSeconds) * time.Second)
					continue
				}
			}
			if _, err := l.ReleaseReboot(ctx, group, h); err != nil {
				e.Logger.Error("the reboot lock of a lost machine could not be released", "group", group, "machine", h.Name, "err", err)
				sooner(probeEvery)
				continue
			}
			e.Logger.Warn("released the reboot lock of a machine that is lost", "group", group, "machine", h.Name, "since", h.Since)
		}
	}
	return again
}
