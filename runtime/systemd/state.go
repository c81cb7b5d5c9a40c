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
	Error             string    // why systemd could not load the unit's file
}

// Up reports whether the unit runs or is about to.
func (s State) Up() bool {
	return s.Active == "active" || s.Active == "activating" || s.Active == "reloading" || s.Active == "refreshing"
}

// Started reports whether the unit runs and its start has ended.
func (s State) Started() bool { return s.Up() && s.Active != "activating" }

// results are the D-Bus interfaces of the types that say why they failed.
var results = map[string]string{
	"service": "Service", "socket": "Socket", "mount": "Mount", "automount": "Automount",
	"swap": "Swap", "timer": "Timer", "path": "Path", "scope": "Scope",
}

// State asks for a unit's state. A unit that systemd does not know is
// not-found and inactive.
func (m *Manager) State(ctx context.Context, name string) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := m.states.do(ctx, name)
	if err != nil {
		return State{}, err
	}
	if s.Load != "loaded" && s.Load != "not-found" {
		// A pair of the error's name and its text.
		var e []any
		if m.property(ctx, name, "LoadError", &e) == nil && len(e) == 2 {
			s.Error, _ = e[1].(string)
		}
	}
	if face := results[name[strings.LastIndexByte(name, '.')+1:]]; face != "" && s.Active == "failed" {
		_ = m.get(ctx, name, service+"."+face, "Result", &s.Result)
	}
	return s, nil
}

// Current reports whether systemd has the unit's file as it is now.
func (m *Manager) Current(ctx context.Context, name string) (bool, error) {
	var load string
	var outdated bool
	err := m.property(ctx, name, "LoadState", &load)
	if err == nil {
		err = m.property(ctx, name, "NeedDaemonReload", &outdated)
	}
	return load == "loaded" && !outdated, err
}

// property asks for one property that units of all types have.
func (m *Manager) property(ctx context.Context, name, property string, value any) error {
	return m.get(ctx, name, unitInterface, property, value)
}

func (m *Manager) get(ctx context.Context, name, face, property string, value any) error {
	l, err := m.current()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var v dbus.Variant
	err = l.conn.Object(service, unitPath(name)).CallWithContext(ctx, propertiesGet, 0, face, property).Store(&v)
	if err == nil {
		err = v.Store(value)
	}
	if err != nil {
		return fmt.Errorf("asking systemd for %s of %s: %w", property, name, err)
	}
	return nil
}

// listed is a unit in systemd's lists.
type listed struct {
	Name, Description, Load, Active, Sub, Follows string
	Path                                          dbus.ObjectPath
	Job                                           uint32
	JobType                                       string
	JobPath                                       dbus.ObjectPath
}

// list asks for the states of units. To ask for all that systemd knows of a unit
// would have it look through directories for each.
func (m *Manager) list(ctx context.Context, names []string) (map[string]State, error) {
	l, err := m.current()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	all := l.conn.Object(service, managerPath).GoWithContext(ctx, managerInterface+".ListUnitsByNames", 0, make(chan *dbus.Call, 1), names)
	// Asked for after the states: if one changes between, that is news.
	since := make([]*dbus.Call, len(names))
	for i, name := range names {
		since[i] = l.conn.Object(service, unitPath(name)).GoWithContext(ctx, propertiesGet, 0, make(chan *dbus.Call, 1), unitInterface, "StateChangeTimestamp")
	}
	var units []listed
	if err := (<-all.Done).Store(&units); err != nil {
		return nil, fmt.Errorf("asking systemd for %s: %w", strings.Join(names, ", "), err)
	}
	if len(units) != len(names) {
		return nil, fmt.Errorf("asking systemd for %d units: it answered for %d", len(names), len(units))
	}
	states := make(map[string]State, len(names))
	for i, u := range units {
		s := State{Load: u.Load, Active: u.Active, Sub: u.Sub}
		var us dbus.Variant
		if err := (<-since[i].Done).Store(&us); err != nil {
			return nil, fmt.Errorf("asking systemd for %s: %w", names[i], err)
		}
		if us, ok := us.Value().(uint64); ok && us > 0 {
			s.Since = time.UnixMicro(int64(us)).UTC()
		}
		states[names[i]] = s
	}
	return states, nil
}
