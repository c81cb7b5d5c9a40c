package member

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// memberID reads or makes the name of the member whose data is in the
// directory: of the machine, for people, and of chance, so that a machine whose
// disk was replaced is another member.
func memberID(c Config) (string, error) {
	file := filepath.Join(c.Dir, "id")
	data, err := os.ReadFile(file)
	if id := strings.TrimSpace(string(data)); err == nil && id != "" {
		return id, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := c.Machine + "-" + strings.ToLower(rand.Text()[:6])
	if err := os.WriteFile(file+".new", []byte(id+"\n"), 0o644); err != nil {
		return "", err
	}
	return id, os.Rename(file+".new", file)
}

// settle reads how far the data goes, after the server has stopped.
func (s *Supervisor) settle() error {
	p, err := s.db.position()
	s.live.Phase, s.live.Position, s.live.Why = Stopped, p, ""
	s.examined, s.accounts, s.answered, s.silent = false, false, false, 0
	return err
}

// step does what is to be done now. Without a view (etcd is away) only the
// server is looked at: it goes on as it is.
func (s *Supervisor) step(ctx context.Context, snap snapshot, seen bool) error {
	if s.live.Phase != Stopped && !s.db.runs() {
		if err := s.ended(ctx); err != nil {
			return err
		}
	}
	if s.live.Phase != Stopped {
		return s.attend(ctx, snap, seen)
	}
	if !seen {
		s.setReady(errors.New("waiting for etcd"))
		return nil
	}
	return s.decide(ctx, snap)
}

// ended sees to a server that has stopped.
func (s *Supervisor) ended(ctx context.Context) error {
	why := s.db.lastProblem()
	s.setReady(fmt.Errorf("its server has stopped: %s", why))
	s.log.Warn("the server has stopped", "last error", why, "next start in", s.backoff)
	s.later()
	if err := s.settle(); err != nil {
		return err
	}
	s.founding, s.recovering = 0, false
	return s.store.disclaim(ctx)
}

// later puts off the next start.
func (s *Supervisor) later() {
	s.notBefore = time.Now().Add(s.backoff)
	s.backoff = min(2*s.backoff, lastBackoff)
}

// say tells the others, if it is news to them.
func (s *Supervisor) say(ctx context.Context) error {
	if s.reported != nil && *s.reported == s.live {
		return nil
	}
	if err := s.store.report(ctx, s.live); err != nil {
		return err
	}
	l := s.live
	s.reported = &l
	return nil
}

// decide is a step with a stopped server.
func (s *Supervisor) decide(ctx context.Context, snap snapshot) error {
	if done, err := s.clean(snap); err != nil || !done {
		return err
	}
	// What is decided rests on what everybody can see.
	if snap.Live[s.id] != s.live {
		s.reported = nil
		return s.say(ctx)
	}
	a := Decide(s.id, s.live.Position, s.examined, snap.View)
	if time.Now().Before(s.notBefore) && a.Step != Wait && a.Step != Refuse {
		return nil
	}
	if a.Why != s.live.Why {
		s.log.Info(string(a.Step), "why", a.Why, "position", s.live.Position.String())
	}
	switch a.Step {
	case Examine:
		return s.examine(ctx)
	case Bootstrap:
		return s.bootstrap(ctx, snap)
	case Recover:
		return s.recover(ctx, snap)
	case Join:
		return s.join(ctx, a.Peers)
	}
	s.live.Why = a.Why
	s.setReady(errors.New(a.Why))
	return s.say(ctx)
}

// clean removes data that was made for a cluster which has not come about. Had
// it, the record would say so.
func (s *Supervisor) clean(snap snapshot) (done bool, err error) {
	if _, err := os.Stat(s.db.unborn()); err != nil {
		return true, nil
	}
	if snap.Cluster == nil || snap.Cluster.By != s.id {
		s.log.Info("removing the data of a cluster that has not come about")
		if err := s.db.wipe(); err != nil {
			return false, err
		}
	}
	if err := os.Remove(s.db.unborn()); err != nil {
		return false, err
	}
	return true, s.settle()
}

func (s *Supervisor) examine(ctx context.Context) error {
	s.setReady(errors.New("finding out how far its data goes"))
	if err := s.prepare(ctx, nil); err != nil {
		return err
	}
	p, err := s.db.examine(ctx)
	s.examined = true
	if err != nil {
		s.log.Error("the data can't be read", "err", err)
		return nil
	}
	if p.Empty() && s.live.Position != unread {
		p = s.live.Position
	}
	s.log.Info("examined", "position", p.String())
	s.live.Position = p
	return s.say(ctx)
}

func (s *Supervisor) bootstrap(ctx context.Context, snap snapshot) error {
	l := s.live
	l.Phase, l.Why = Starting, "making the cluster"
	claim, err := s.store.claim(ctx, snap, l)
	if err != nil {
		return err
	}
	s.log.Info("making the cluster")
	s.setReady(errors.New(l.Why))
	err = s.begin(ctx, l, func() error {
		if err := os.WriteFile(s.db.unborn(), nil, 0o600); err != nil {
			return err
		}
		if err := s.db.wipe(); err != nil {
			return err
		}
		if err := s.prepare(ctx, nil); err != nil {
			return err
		}
		if err := s.db.install(ctx); err != nil {
			return err
		}
		return s.db.start(true, Position{})
	})
	if err == nil {
		s.founding = claim
	}
	return err
}

func (s *Supervisor) recover(ctx context.Context, snap snapshot) error {
	l := s.live
	l.Phase, l.Why = Starting, "starting the cluster"
	if _, err := s.store.claim(ctx, snap, l); err != nil {
		return err
	}
	s.log.Info("starting the cluster from the data here, which is furthest", "position", l.Position.String())
	s.setReady(errors.New(l.Why))
	err := s.begin(ctx, l, func() error {
		if err := os.WriteFile(s.db.grastate(), []byte(formatGrastate(l.Position)), 0o600); err != nil {
			return err
		}
		if err := s.prepare(ctx, nil); err != nil {
			return err
		}
		return s.db.start(true, l.Position)
	})
	s.recovering = err == nil
	return err
}

func (s *Supervisor) join(ctx context.Context, peers []string) error {
	l := s.live
	l.Phase, l.Why = Starting, "joining"
	if err := s.store.enter(ctx, l); err != nil {
		return err
	}
	s.log.Info("joining", "peers", peers, "position", l.Position.String())
	s.setReady(errors.New(l.Why))
	return s.begin(ctx, l, func() error {
		if err := s.prepare(ctx, peers); err != nil {
			return err
		}
		return s.db.start(false, l.Position)
	})
}

// begin starts the server, and takes back what was said if that fails.
func (s *Supervisor) begin(ctx context.Context, l Live, start func() error) error {
	stopped := s.live
	s.live, s.reported = l, &l
	if err := start(); err != nil {
		s.live, s.reported = stopped, nil
		s.later()
		return errors.Join(err, s.store.disclaim(ctx))
	}
	return nil
}

// attend is a step with a running server.
func (s *Supervisor) attend(ctx context.Context, snap snapshot, seen bool) error {
	server, err := s.db.status(ctx)
	if err != nil {
		// It does not answer yet while it is sent a copy, which may take long.
		if s.silent++; !s.answered || s.silent >= unanswered {
			s.setReady(fmt.Errorf("its server does not answer: %w", err))
		}
		if seen {
			return s.say(ctx)
		}
		return nil
	}
	now := time.Now()
	if !s.answered || server.Primary {
		s.lastInside = now
	}
	s.answered, s.silent = true, 0
	server.Cut = now.Sub(s.lastInside)
	s.live.Phase, s.live.Position, s.live.Why = Starting, Position{}, "outside the cluster"
	if server.Primary {
		s.live.Phase, s.live.Why = Primary, ""
		s.backoff = firstBackoff
	}
	if !seen {
		s.judge(server, s.accounts)
		return nil
	}
	if s.founding != 0 {
		if !server.Primary {
			return nil
		}
		return s.found(ctx, server)
	}
	if err := s.say(ctx); err != nil {
		return err
	}
	return s.care(ctx, server, snap)
}

// found makes the new cluster the cluster, before anyone can log in to it.
func (s *Supervisor) found(ctx context.Context, server Server) error {
	err := s.store.found(ctx, s.founding, server.UUID, Known{s.config.Machine, s.config.Address})
	if errors.Is(err, ErrOvertaken) {
		// Either it is done and the answer was lost, or another has made one.
		snap, rerr := s.store.read(ctx)
		if rerr != nil {
			return rerr
		}
		if snap.Cluster == nil || snap.Cluster.By != s.id {
			s.log.Warn("another member has made the cluster meanwhile")
			s.db.stop()
			return nil
		}
		err = nil
	}
	if err != nil {
		return err
	}
	s.founding = 0
	s.log.Info("made the cluster", "uuid", server.UUID)
	if err := os.Remove(s.db.unborn()); err != nil {
		return err
	}
	s.wake()
	return s.say(ctx)
}

// care does what a server needs that runs.
func (s *Supervisor) care(ctx context.Context, server Server, snap snapshot) error {
	if s.recovering && server.Primary {
		if err := s.store.disclaim(ctx); err != nil {
			return err
		}
		s.recovering = false
	}
	c := Attend(s.id, server, snap.View)
	if c.Stop != "" {
		s.log.Warn("stopping the server", "why", c.Stop)
		s.setReady(errors.New(c.Stop))
		s.db.stop()
		return nil
	}
	if c.Record {
		if err := s.record(ctx, server.UUID); err != nil {
			return err
		}
	}
	if c.Enter {
		if err := s.store.enter(ctx, s.live); err != nil {
			return err
		}
		s.judge(server, false)
		return nil
	}
	for _, id := range c.Forget {
		if err := s.store.forget(ctx, snap, id); err != nil && !errors.Is(err, ErrOvertaken) {
			return err
		}
		s.log.Info("the cluster goes on without a member", "member", snap.name(id))
	}
	if server.Synced && !s.accounts {
		if err := s.db.accounts(ctx, s.password); err != nil {
			return err
		}
		s.accounts = true
	}
	s.judge(server, s.accounts)
	return nil
}

// prepare gets what a server needs that is to join peers: of the secrets those
// that hold now.
func (s *Supervisor) prepare(ctx context.Context, peers []string) (err error) {
	if s.password, err = s.store.Secret(ctx, SecretPassword, NewPassword); err != nil {
		return err
	}
	if s.tls, err = s.store.Secret(ctx, SecretTLS, NewTLS); err != nil {
		return err
	}
	cert, key := SplitTLS(s.tls)
	return s.db.prepare(peers, cert, key)
}

// record tells etcd of the cluster, with its secrets, if it was made anew.
func (s *Supervisor) record(ctx context.Context, uuid string) error {
	s.log.Warn("etcd knows nothing of the cluster any more; telling it", "uuid", uuid)
	return s.store.record(ctx, uuid, map[string]string{SecretPassword: s.password, SecretTLS: s.tls})
}

// judge sets the readiness. entered: this member is known to the others, so
// that what it acknowledges can't be passed over.
func (s *Supervisor) judge(server Server, entered bool) {
	switch {
	case !server.Primary:
		s.setReady(errors.New("outside the cluster"))
	case !server.Synced:
		s.setReady(errors.New("not in step with the cluster yet"))
	case !entered:
		s.setReady(errors.New("about to enter the cluster"))
	default:
		s.setReady(nil)
	}
}
