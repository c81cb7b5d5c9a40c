// Package guard stops a machine's singletons when their claims are about to end
// and the agent, whose work that is, does not: it hangs, is starved, was stopped
// or can't be started. It is a process of its own, plasmid-guard.service, and
// asks nobody: not the store, not plasmidd, not the D-Bus daemon.
package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Note is when the machine's claims were renewed, and how long they last from
// then, by a clock that goes on while the machine sleeps and begins anew when it
// boots. The agent writes it after each renewal.
type Note struct{ Renewed, Lasts time.Duration }

// noteFile lies in a directory that a reboot empties.
const noteFile = "claims-renewed"

// Write replaces the note in dir, so that a reader finds the old or the new one.
func (n Note) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(dir, noteFile)
	if err := os.WriteFile(file+".new", fmt.Appendf(nil, "%d %d\n", n.Renewed, n.Lasts), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Read returns the note in dir.
func Read(dir string) (Note, error) {
	file := filepath.Join(dir, noteFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return Note{}, err
	}
	var n Note
	if _, err := fmt.Sscanf(string(data), "%d %d\n", &n.Renewed, &n.Lasts); err != nil || n.Lasts <= 0 {
		return Note{}, fmt.Errorf("%s says %q, which is no note of a renewal", file, data)
	}
	return n, nil
}

// Boottime is the time since the machine booted, sleep included; negative if the
// kernel does not say.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return -1
	}
	return time.Duration(ts.Nano())
}

// stoppedDir has a file for each unit that the guard has stopped.
const stoppedDir = "guarded"

// Stopped are the units that the guard has stopped and that nobody has taken note
// of by Forget.
func Stopped(dir string) ([]string, error) {
	files, err := os.ReadDir(filepath.Join(dir, stoppedDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var units []string
	for _, f := range files {
		units = append(units, f.Name())
	}
	return units, err
}

// Has reports whether the guard has stopped a unit.
func Has(dir, unit string) bool {
	_, err := os.Stat(filepath.Join(dir, stoppedDir, unit))
	return err == nil
}

// Forget takes note that the guard has stopped a unit.
func Forget(dir, unit string) { _ = os.Remove(filepath.Join(dir, stoppedDir, unit)) }

func stopped(dir, unit string) error {
	if err := os.MkdirAll(filepath.Join(dir, stoppedDir), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, stoppedDir, unit), nil, 0o644)
}
