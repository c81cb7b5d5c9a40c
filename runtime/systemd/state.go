package systemd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// State is what systemd says of a unit.
type State struct {
	Load, Active, Sub string
	Since             time.Time // of the last change of Active; zero if there was none
	Result            string    // why it failed: exit-code, timeout …; empty if it did not
	Fragment          string    // the unit file's path; empty if it has none
	Outdated          bool      // the unit file changed since systemd read it
	Error             string    // why systemd could not load the unit's file
}

// Up reports whether the unit runs or is about to.
func (s State) Up() bool {
	return s.Active == "active" || s.Active == "activating" || s.Active == "reloading" || s.Active == "refreshing"
}

// Started reports whether the unit runs and its start has ended.
func (s State) Started() bool { return s.Up() && s.Active != "activating" }

// Has reports whether systemd has the unit's file as it is now.
func (s State) Has() bool { return s.Load == "loaded" && !s.Outdated }

// results are the D-Bus interfaces of the types that say why they failed.
var results = map[string]string{
	"service": "Service", "socket": "Socket", "mount": "Mount", "automount": "Automount",
	"swap": "Swap", "timer": "Timer", "path": "Path", "scope": "Scope",
}

// State asks for a unit's state. A unit that systemd does not know is
// not-found and inactive.
func (m *Manager) State(ctx context.Context, name string) (State, error) {
	l, err := m.current()
	if err != nil {
		return State{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	object := l.conn.Object(service, unitPath(name))
	var props map[string]dbus.Variant
	if err := object.CallWithContext(ctx, propertiesGetAll, 0, unitInterface).Store(&props); err != nil {
		return State{}, fmt.Errorf("asking systemd for %s: %w", name, err)
	}
	text := func(k string) string { s, _ := props[k].Value().(string); return s }
	s := State{Load: text("LoadState"), Active: text("ActiveState"), Sub: text("SubState"), Fragment: text("FragmentPath")}
	s.Outdated, _ = props["NeedDaemonReload"].Value().(bool)
	// A pair of the error's name and its text.
	if e, ok := props["LoadError"].Value().([]any); ok && len(e) == 2 {
		s.Error, _ = e[1].(string)
	}
	if us, ok := props["StateChangeTimestamp"].Value().(uint64); ok && us > 0 {
		s.Since = time.UnixMicro(int64(us)).UTC()
	}
	if s.Active != "failed" {
		return s, nil
	}
	if face := results[name[strings.LastIndexByte(name, '.')+1:]]; face != "" {
		var v dbus.Variant
		if object.CallWithContext(ctx, propertiesGet, 0, service+"."+face, "Result").Store(&v) == nil {
			s.Result, _ = v.Value().(string)
		}
	}
	return s, nil
}
