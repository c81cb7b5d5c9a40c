package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// runtimeDir is where systemd finds units that are gone after a reboot.
const runtimeDir = "/run/systemd/system"

// ForeignUnitError means that the machine has a unit of that name which did
// not come from the cluster: what is put in its place could take the machine
// down, ssh.service and docker.service for instance.
type ForeignUnitError struct{ Name, Path string }

func (e *ForeignUnitError) Error() string {
	return fmt.Sprintf("the machine has a %s of its own (%s): give the unit another name", e.Name, e.Path)
}

// Install writes a unit file and has systemd read it. With enable its
// [Install] section is followed, until the next reboot. The error may be a
// *ForeignUnitError.
func (m *Manager) Install(ctx context.Context, name, text string, enable bool) error {
	file, link := filepath.Join(m.dir, name), filepath.Join(runtimeDir, name)
	target, err := os.Readlink(link)
	linked := err == nil && target == file
	fresh := false
	if !linked {
		s, err := m.State(ctx, name)
		if err != nil {
			return err
		}
		if fresh = s.Load == "not-found"; !fresh {
			var at string
			if err := m.property(ctx, name, "FragmentPath", &at); err != nil {
				return err
			}
			if at != "" && at != file && at != link {
				return &ForeignUnitError{name, at}
			}
		}
	}
	// A crash leaves the old file or the new one, never a part of it.
	tmp := filepath.Join(m.dir, "."+name+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	if !linked {
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(file, link); err != nil {
			return err
		}
	}
	if enable {
		if err := m.call(ctx, "EnableUnitFiles", []string{name}, true, true).Err; err != nil {
			return fmt.Errorf("enabling %s: %w", name, err)
		}
	} else if fresh {
		// A file that is new systemd reads when it is first asked for it. To have
		// all files read takes it more than to start some units.
		if s, err := m.State(ctx, name); err != nil || s.Load != "not-found" {
			return err
		}
	}
	return m.readFiles(ctx)
}

// readFiles has systemd read all files again.
func (m *Manager) readFiles(ctx context.Context) error {
	_, err := m.reloads.do(ctx, "")
	return err
}

func (m *Manager) reload(ctx context.Context, _ []string) (map[string]struct{}, error) {
	if err := m.call(ctx, "Reload").Err; err != nil {
		return nil, fmt.Errorf("having systemd read its unit files: %w", err)
	}
	return map[string]struct{}{"": {}}, nil
}

// Disable takes back what the [Install] section of a unit had done.
func (m *Manager) Disable(ctx context.Context, name string) error {
	if err := m.call(ctx, "DisableUnitFiles", []string{name}, true).Err; err != nil && !isNoSuchUnit(err) {
		return fmt.Errorf("disabling %s: %w", name, err)
	}
	return nil
}

// Remove takes a unit that has been stopped out of systemd. That systemd does
// not know it any more is no error: it forgets stopped units by itself.
func (m *Manager) Remove(ctx context.Context, name string, enabled bool) error {
	if enabled {
		if err := m.Disable(ctx, name); err != nil {
			return err
		}
	}
	for _, f := range []string{filepath.Join(runtimeDir, name), filepath.Join(m.dir, name)} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := m.call(ctx, "ResetFailedUnit", name).Err; err != nil && !isNoSuchUnit(err) {
		return fmt.Errorf("forgetting that %s failed: %w", name, err)
	}
	if !enabled {
		// What does not run and is spoken of by none it has forgotten already.
		if s, err := m.State(ctx, name); err != nil || s.Load == "not-found" {
			return err
		}
	}
	return m.readFiles(ctx)
}

// Installed returns the texts of the unit files that Install wrote since the
// machine booted.
func (m *Manager) Installed() (map[string]string, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, err
	}
	units := map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.dir, e.Name()))
		if err != nil {
			return nil, err
		}
		units[e.Name()] = string(text)
	}
	return units, nil
}
