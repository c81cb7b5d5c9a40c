package agent

import (
	"log/slog"
	"os"
	"path/filepath"

	"plasmid/runtime/guard"
	"plasmid/runtime/store"
)

// marks say which units were started, and from which text, so that one that
// has ended is not started again by a daemon that restarts. They are files in
// a directory that a reboot empties, as it does with the units. A mark is made
// as soon as the start is queued; a crash in between leaves none, and the unit
// that then runs gets one.
type marks struct {
	dir string
	log *slog.Logger
}

func (m marks) put(p *store.Placement) {
	if m.has(p) {
		return
	}
	err := os.MkdirAll(m.dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.dir, p.Unit), []byte(p.Hash), 0o644)
	}
	if err != nil {
		m.log.Error("a start could not be noted: if the unit ends and plasmidd restarts, it is started again", "unit", p.Unit, "err", err)
	}
}

func (m marks) has(p *store.Placement) bool {
	data, err := os.ReadFile(filepath.Join(m.dir, p.Unit))
	return err == nil && string(data) == p.Hash
}

func (m marks) remove(unit string) {
	_ = os.Remove(filepath.Join(m.dir, unit))
	guard.Forget(filepath.Dir(m.dir), unit)
}

// guarded reports whether a unit was stopped by the guard, so that
// its end says nothing.
func (m marks) guarded(unit string) bool { return guard.Has(filepath.Dir(m.dir), unit) }
