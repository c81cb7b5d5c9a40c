// Package systemd drives this machine's systemd over D-Bus. It learns of
// changes by signals and never asks for lists of units: on a machine with many
// of them that is what costs.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// callTimeout is for calls that systemd answers at once, or after a reload
// that is under way.
const callTimeout = 20 * time.Second

// ErrAway means that there is no connection to systemd at the moment. It is
// being made again.
var ErrAway = errors.New("systemd can't be reached; the connection is being made again")

// Manager is a connection to systemd that is made anew whenever it breaks.
type Manager struct {
	dir     string // where unit files are kept; systemd has links to them
	ctx     context.Context
	close   context.CancelFunc
	ended   sync.WaitGroup
	reloads shared[struct{}]
	states  shared[State]
	news    news

	mu   sync.Mutex
	link *link // nil while there is none
}

// New connects. dir is made if it is not there. Signals are gathered from now
// on, so that none is missed before Changes is called.
func New(ctx context.Context, dir string) (*Manager, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	m := &Manager{dir: dir, news: newNews()}
	m.ctx, m.close = context.WithCancel(context.WithoutCancel(ctx))
	first, err := dial(m.ctx, &m.news)
	if err != nil {
		m.close()
		return nil, fmt.Errorf("connecting to systemd: %w; is systemd this machine's PID 1?", err)
	}
	m.link = first
	m.reloads.call, m.states.call = m.reload, m.list
	m.ended.Go(func() { m.keep(first) })
	return m, nil
}

// Close ends the connection.
func (m *Manager) Close() {
	m.close()
	m.ended.Wait()
}

const firstRetry, lastRetry = 50 * time.Millisecond, 2 * time.Second

// keep makes the connection again whenever it breaks, as it does when systemd
// executes itself anew after an upgrade.
func (m *Manager) keep(l *link) {
	for {
		<-l.ended()
		m.mu.Lock()
		m.link = nil
		m.mu.Unlock()
		l.close()
		var err error
		for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
			if m.ctx.Err() != nil {
				return
			}
			if l, err = dial(m.ctx, &m.news); err == nil {
				break
			}
			t := time.NewTimer(retry)
			select {
			case <-m.ctx.Done():
			case <-t.C:
			}
			t.Stop()
		}
		m.mu.Lock()
		m.link = l
		m.mu.Unlock()
		m.news.add(all)
	}
}

func (m *Manager) current() (*link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.link == nil {
		return nil, ErrAway
	}
	return m.link, nil
}

// Changes calls f with the name of every unit of this machine whose state
// changed, until ctx ends. An empty name means that signals were missed while
// the connection was away: any unit may have changed.
func (m *Manager) Changes(ctx context.Context, f func(unit string)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.news.arrived:
		}
		for _, name := range m.news.take() {
			f(name)
		}
	}
}

// call calls a method of systemd's manager.
func (m *Manager) call(ctx context.Context, method string, args ...any) *dbus.Call {
	l, err := m.current()
	if err != nil {
		return &dbus.Call{Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.call(ctx, method, args...)
}

// Start asks systemd to start a unit. When it returns the job is queued; wait
// returns how the job ended: done, failed, timeout, canceled, dependency or
// skipped. It waits as long as its ctx does: how long a unit may take to start
// is for its TimeoutStartSec= to say.
func (m *Manager) Start(ctx context.Context, name string) (wait Wait, err error) {
	return m.job(ctx, "starting", "StartUnit", name)
}

// Stop asks systemd to stop a unit. When wait returns its stop hooks have
// ended. That systemd does not know the unit is no error.
func (m *Manager) Stop(ctx context.Context, name string) (wait Wait, err error) {
	wait, err = m.job(ctx, "stopping", "StopUnit", name)
	if isNoSuchUnit(err) {
		return func(context.Context) (string, error) { return "done", nil }, nil
	}
	return wait, err
}

// Restart asks systemd to stop a unit, if it runs, and to start it.
func (m *Manager) Restart(ctx context.Context, name string) (wait Wait, err error) {
	return m.job(ctx, "restarting", "RestartUnit", name)
}

// Kill ends all processes of a unit at once. That systemd does not know the
// unit is no error.
func (m *Manager) Kill(ctx context.Context, name string) error {
	err := m.call(ctx, "KillUnit", name, "all", int32(syscall.SIGKILL)).Err
	if err != nil && !isNoSuchUnit(err) {
		return fmt.Errorf("killing %s: %w", name, err)
	}
	return nil
}

// Wait returns a job's result when it has ended. Its error is ctx's, or
// ErrAway if the connection broke meanwhile.
type Wait func(ctx context.Context) (result string, err error)

func (m *Manager) job(ctx context.Context, doing, method, name string) (Wait, error) {
	l, err := m.current()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	wait, err := l.job(ctx, method, name)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", doing, name, err)
	}
	return wait, nil
}

func isNoSuchUnit(err error) bool {
	var d dbus.Error
	return errors.As(err, &d) && strings.HasPrefix(d.Name, "org.freedesktop.systemd1.NoSuchUnit")
}
