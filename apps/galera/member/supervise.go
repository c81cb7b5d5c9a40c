package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lookEvery    = time.Second // at the server
	firstBackoff = time.Second // after a server that did not stay
	lastBackoff  = 20 * time.Second
	unanswered   = 5 // looks in a row without an answer, until the server counts as out
)

// Config is what a member is run with.
type Config struct {
	App     string // names the cluster
	Machine string // for people
	Address string // at which other members and clients reach it
	Dir     string // stays on the machine: the member is what is in it
}

// Supervisor runs one member.
type Supervisor struct {
	config Config
	id     string
	store  *Store
	db     *mariadb
	log    *slog.Logger

	password string // secrets, since the server's last start
	tls      string

	nudge chan struct{}

	// Of the loop alone.
	live       Live
	reported   *Live // what etcd has; nil: not known
	examined   bool
	founding   int64 // revision of the claim to make a cluster; 0: none
	recovering bool
	accounts   bool
	answered   bool
	silent     int
	lastInside time.Time // the server was in the cluster, or began to answer
	notBefore  time.Time // of the next start
	backoff    time.Duration

	mu    sync.Mutex
	ready error // nil: ready
}

// Open locks a member's directory and gives the member its name, which stays
// with the directory.
func Open(c Config) (id string, unlock func(), err error) {
	if err := os.MkdirAll(c.Dir, 0o711); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(c.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return "", nil, fmt.Errorf("%s: another member runs on this data: %w", c.Dir, err)
	}
	unlock = func() { lock.Close() }
	id, err = memberID(c)
	if err != nil {
		unlock()
	}
	return id, unlock, err
}

// New returns the supervisor of the member id.
func New(c Config, id string, s *Store, log *slog.Logger) (*Supervisor, error) {
	sup := &Supervisor{config: c, id: id, store: s, log: log, nudge: make(chan struct{}, 1), backoff: firstBackoff, ready: errors.New("not started yet")}
	var err error
	sup.db, err = newMariaDB(Settings{ID: id, Address: c.Address, Name: c.App, Data: filepath.Join(c.Dir, "data")}, c.Dir)
	return sup, err
}

// Ready is nil when the member takes part in the cluster and is in step, and
// else says why it is not.
func (s *Supervisor) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *Supervisor) setReady(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (why == nil) != (s.ready == nil) || why != nil && why.Error() != s.ready.Error() {
		s.log.Info("readiness", "ready", why == nil, "why", why)
	}
	s.ready = why
}

func (s *Supervisor) wake() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// Run looks after the member until ctx ends, and then stops its server.
func (s *Supervisor) Run(ctx context.Context) error {
	defer s.db.db.Close()
	s.live = Live{Machine: s.config.Machine, Address: s.config.Address, Phase: Stopped}
	if err := s.settle(); err != nil {
		return err
	}
	background, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	fresh := make(chan struct{}, 1)
	wg.Go(func() { s.store.watch(background, s.wake) })
	wg.Go(func() { s.keepLease(context.WithoutCancel(ctx), background.Done(), fresh) })
	defer func() {
		s.setReady(errors.New("stopping"))
		s.db.stop()
		stop()
		wg.Wait()
		if err := s.store.leave(context.WithoutCancel(ctx)); err != nil {
			s.log.Warn("leaving", "err", err)
		}
	}()
	select { // nothing can be said before there is a lease
	case <-fresh:
	case <-ctx.Done():
		return nil
	}
	// A claim of the process before this one.
	for s.store.disclaim(ctx) != nil && ctx.Err() == nil {
		s.pause(ctx, lookEvery)
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		snap, err := s.store.read(ctx)
		if err != nil {
			s.log.Warn("etcd does not answer", "err", err)
			s.reported = nil
		}
		if err = s.step(ctx, snap, err == nil); err != nil && ctx.Err() == nil {
			if !errors.Is(err, ErrOvertaken) {
				s.log.Warn("trying again", "err", err)
			}
			s.pause(ctx, lookEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-fresh:
			s.reported = nil
		case <-s.nudge:
		case <-tick.C:
		case <-s.db.ended():
		}
	}
}

func (s *Supervisor) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// keepLease tells fresh of every new lease.
func (s *Supervisor) keepLease(ctx context.Context, done <-chan struct{}, fresh chan<- struct{}) {
	t := time.NewTicker(LeaseSeconds * time.Second / 4)
	defer t.Stop()
	for {
		isNew, err := s.store.keepLease(ctx)
		if err != nil {
			s.log.Warn("renewing the lease", "err", err)
		}
		if isNew {
			select {
			case fresh <- struct{}{}:
			default:
			}
		}
		select {
		case <-done:
			return
		case <-t.C:
		}
	}
}
