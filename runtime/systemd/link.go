package systemd

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

// The private socket leads to systemd itself, so that neither the D-Bus daemon
// nor its restart is in the way.
const address = "unix:path=/run/systemd/private"

const (
	service          = "org.freedesktop.systemd1"
	managerPath      = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerInterface = service + ".Manager"
	unitInterface    = service + ".Unit"
	propertiesGet    = "org.freedesktop.DBus.Properties.Get"
	signalJobRemoved = managerInterface + ".JobRemoved"
	signalProperties = "org.freedesktop.DBus.Properties.PropertiesChanged"
)

// link is one connection to systemd with the jobs that are awaited on it.
type link struct {
	conn *dbus.Conn
	jobs jobs
}

// dial connects and hands what changes to n. On the private socket there is no
// bus: no name is asked for, and signals come without match rules.
func dial(ctx context.Context, n *news) (*link, error) {
	conn, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	// By number: a name would have to be looked up.
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		conn.Close()
		return nil, err
	}
	l := &link{conn: conn}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	go l.dispatch(signals, n)
	if err := l.greet(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

// greet makes the connection's first call. systemd 262 leaves a call that
// comes together with the end of the authentication lying until more comes in,
// so it is made again when no answer comes.
func (l *link) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		cctx, cancel := context.WithTimeout(ctx, wait)
		err := l.call(cctx, "Subscribe").Err
		cancel()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

func (l *link) ended() <-chan struct{} { return l.conn.Context().Done() }
func (l *link) close()                 { l.conn.Close() }

func (l *link) call(ctx context.Context, method string, args ...any) *dbus.Call {
	return l.conn.Object(service, managerPath).CallWithContext(ctx, managerInterface+"."+method, 0, args...)
}

// job queues a job. How it ends may be told before the call returns.
func (l *link) job(ctx context.Context, method, unit string) (Wait, error) {
	l.jobs.begin()
	var path dbus.ObjectPath
	err := l.call(ctx, method, unit, "replace").Store(&path)
	if err != nil {
		l.jobs.queued("")
		return nil, err
	}
	done := l.jobs.queued(path)
	return func(ctx context.Context) (string, error) {
		select {
		case result := <-done:
			return result, nil
		case <-ctx.Done():
			l.jobs.forget(path, done)
			return "", ctx.Err()
		case <-l.ended():
			return "", ErrAway
		}
	}, nil
}

// dispatch takes signals until the connection ends. It calls nothing that
// waits, so no call can hold up the signals that others wait for.
func (l *link) dispatch(signals <-chan *dbus.Signal, n *news) {
	for {
		var s *dbus.Signal
		select {
		case <-l.ended():
			return
		case s = <-signals:
		}
		if s == nil {
			return
		}
		switch s.Name {
		case signalJobRemoved:
			var (
				id           uint32
				path         dbus.ObjectPath
				unit, result string
			)
			if dbus.Store(s.Body, &id, &path, &unit, &result) == nil {
				l.jobs.ended(path, result)
			}
		case signalProperties:
			if unit, ok := stateChanged(s); ok {
				n.add(unit)
			}
		}
	}
}

// stateChanged returns the unit of a signal that tells of another state.
func stateChanged(s *dbus.Signal) (unit string, ok bool) {
	if len(s.Body) < 2 || s.Body[0] != unitInterface {
		return "", false
	}
	changed, _ := s.Body[1].(map[string]dbus.Variant)
	_, active := changed["ActiveState"]
	_, sub := changed["SubState"]
	if !active && !sub {
		return "", false
	}
	return unitOf(s.Path)
}
