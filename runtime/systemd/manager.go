// Package systemd drives this machine's systemd over D-Bus. It learns of
// changes by signals and never asks for lists of units: on a machine with many
// of them that is what costs.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// callTimeout is for calls that systemd answers at once.
const callTimeout = 20 * time.Second

// runtimeDir is where systemd finds units that are gone after a reboot.
const runtimeDir = "/run/systemd/system"

// State is what systemd says of a unit.
type State struct {
	Load, Active, Sub string
	Since             time.Time // of the last change of Active
	Result            string    // of a service's last run: success, exit-code …
}

// Manager is a connection to systemd.
type Manager struct {
	conn *sd.Conn
	dir  string // where unit files are kept; systemd has links to them

	reloads reloader
}

// New connects. dir is made if it is not there.
func New(ctx context.Context, dir string) (*Manager, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	conn, err := sd.NewSystemdConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to systemd: %w", err)
	}
	m := &Manager{conn: conn, dir: dir}
	m.reloads.reload = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return conn.ReloadContext(ctx)
	}
	return m, nil
}

// Close ends the connection.
func (m *Manager) Close() { m.conn.Close() }

// Connected reports whether the connection lives.
func (m *Manager) Connected() bool { return m.conn.Connected() }

// Changes calls f with the name of every unit whose state changed, until ctx
// ends or the connection breaks.
func (m *Manager) Changes(ctx context.Context, f func(unit string)) error {
	updates := make(chan *sd.PropertiesUpdate, 1024)
	errs := make(chan error, 16)
	m.conn.SetPropertiesSubscriber(updates, errs)
	if err := m.conn.Subscribe(); err != nil {
		return fmt.Errorf("subscribing to systemd's signals: %w", err)
	}
	t := time.NewTicker(5 * time.Second) // of the connection, not of units
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u := <-updates:
			if _, ok := u.Changed["ActiveState"]; ok {
				f(u.UnitName)
			} else if _, ok := u.Changed["SubState"]; ok {
				f(u.UnitName)
			}
		case err := <-errs:
			return fmt.Errorf("systemd's signals came faster than they were read: %w", err)
		case <-t.C:
			if !m.conn.Connected() {
				return errors.New("the connection to systemd broke")
			}
		}
	}
}

// State asks for a unit's state. A unit that systemd does not know is
// not-found and inactive.
func (m *Manager) State(ctx context.Context, name string) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	props, err := m.conn.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return State{}, fmt.Errorf("asking systemd for %s: %w", name, err)
	}
	text := func(k string) string { s, _ := props[k].(string); return s }
	s := State{Load: text("LoadState"), Active: text("ActiveState"), Sub: text("SubState")}
	if us, ok := props["StateChangeTimestamp"].(uint64); ok && us > 0 {
		s.Since = time.UnixMicro(int64(us)).UTC()
	}
	if strings.HasSuffix(name, ".service") && s.Active == "failed" {
		if p, err := m.conn.GetServicePropertyContext(ctx, name, "Result"); err == nil {
			s.Result, _ = p.Value.Value().(string)
		}
	}
	return s, nil
}

// Start starts a unit and returns how the job ended: done, failed, timeout,
// canceled, dependency or skipped. It waits as long as ctx does.
func (m *Manager) Start(ctx context.Context, name string) (string, error) {
	return m.job(ctx, "starting", name, m.conn.StartUnitContext)
}

// Stop stops a unit; its stop hooks have ended when it returns.
func (m *Manager) Stop(ctx context.Context, name string) (string, error) {
	result, err := m.job(ctx, "stopping", name, m.conn.StopUnitContext)
	if isNoSuchUnit(err) {
		return "done", nil
	}
	return result, err
}

// Restart stops a unit if it runs, and starts it.
func (m *Manager) Restart(ctx context.Context, name string) (string, error) {
	return m.job(ctx, "restarting", name, m.conn.RestartUnitContext)
}

type jobCall func(ctx context.Context, name, mode string, ch chan<- string) (int, error)

func (m *Manager) job(ctx context.Context, doing, name string, call jobCall) (string, error) {
	done := make(chan string, 1)
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := call(cctx, name, "replace", done); err != nil {
		return "", fmt.Errorf("%s %s: %w", doing, name, err)
	}
	select {
	case result := <-done:
		return result, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func isNoSuchUnit(err error) bool {
	var d dbus.Error
	return errors.As(err, &d) && (d.Name == "org.freedesktop.systemd1.NoSuchUnit" || d.Name == "org.freedesktop.systemd1.LoadFailed")
}

// Install writes a unit file and has systemd read it. With enable its
// [Install] section is followed, until the next reboot.
func (m *Manager) Install(ctx context.Context, name, text string, enable bool) error {
	file := filepath.Join(m.dir, name)
	tmp := filepath.Join(m.dir, "."+name+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	link := filepath.Join(runtimeDir, name)
	if target, err := os.Readlink(link); err != nil || target != file {
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(file, link); err != nil {
			return err
		}
	}
	if enable {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if _, _, err := m.conn.EnableUnitFilesContext(cctx, []string{name}, true, true); err != nil {
			return fmt.Errorf("enabling %s: %w", name, err)
		}
	}
	return m.reloads.do(ctx)
}

// Remove takes a unit that has been stopped out of systemd. That systemd does
// not know it any more is no error.
func (m *Manager) Remove(ctx context.Context, name string, enabled bool) error {
	if enabled {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if _, err := m.conn.DisableUnitFilesContext(cctx, []string{name}, true); err != nil && !isNoSuchUnit(err) {
			return fmt.Errorf("disabling %s: %w", name, err)
		}
	}
	for _, f := range []string{filepath.Join(runtimeDir, name), filepath.Join(m.dir, name)} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := m.conn.ResetFailedUnitContext(cctx, name); err != nil && !isNoSuchUnit(err) {
		return fmt.Errorf("forgetting that %s failed: %w", name, err)
	}
	return m.reloads.do(ctx)
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

// reloader has systemd read its files once for all who ask meanwhile: a reload
// takes longer the more units there are.
type reloader struct {
	reload func(context.Context) error

	mu      sync.Mutex
	running bool
	waiting []chan error
}

// do returns when a reload that began after the call has ended.
func (r *reloader) do(ctx context.Context) error {
	done := make(chan error, 1)
	r.mu.Lock()
	r.waiting = append(r.waiting, done)
	if !r.running {
		r.running = true
		go r.run(context.WithoutCancel(ctx))
	}
	r.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *reloader) run(ctx context.Context) {
	for {
		r.mu.Lock()
		batch := slices.Clone(r.waiting)
		r.waiting = r.waiting[:0]
		if len(batch) == 0 {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		err := r.reload(ctx)
		for _, done := range batch {
			done <- err
		}
	}
}
