package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Session is a machine's presence: a lease that is kept alive, with the
// machine's facts, the states of its units and its registrations on it. All of
// them vanish when the lease ends.
type Session struct {
	store *Store
	id    string
	lease clientv3.LeaseID
	ttl   time.Duration
	done  chan struct{}
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// DuplicateMachineError means that another live machine has the same ID, most
// likely because its disk was cloned after its first boot.
type DuplicateMachineError struct {
	ID    string
	Other Machine
}

func (e *DuplicateMachineError) Error() string {
	return fmt.Sprintf("machine ID %s is used by %s (%s) too: two machines were cloned from a disk that had booted; "+
		"empty /etc/machine-id on one of them and reboot it", e.ID, e.Other.Name, e.Other.PrivateIPv4)
}

// Join puts the machine's facts on a lease of ttl, whole seconds of at least
// one. A lease that the same machine's last process left alive is taken over
// with all that is on it, so that neither the machine nor its registrations
// are away in between; Sweep then removes what no longer holds.
func (s *Store) Join(ctx context.Context, m Machine, ttl time.Duration) (*Session, error) {
	seconds := int64(max(1, ttl/time.Second))
	lease, err := s.other(ctx, m)
	if err != nil {
		return nil, err
	}
	if lease == 0 || !s.renewable(ctx, lease, seconds) {
		gctx, cancel := s.deadline(ctx)
		defer cancel()
		grant, err := s.client.Grant(gctx, seconds)
		if err != nil {
			return nil, failed("asking for a lease", err)
		}
		lease = grant.ID
	}
	ss := &Session{store: s, id: m.ID, lease: lease, ttl: ttl, done: make(chan struct{})}
	if err := ss.Update(ctx, m); err != nil {
		return nil, err
	}
	kctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ss.stop = stop
	ss.ended.Go(func() { ss.keepAlive(kctx) })
	return ss, nil
}

// renewable renews a lease and reports whether it lives and has the wanted time.
func (s *Store) renewable(ctx context.Context, lease clientv3.LeaseID, seconds int64) bool {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	resp, err := s.client.KeepAliveOnce(ctx, lease)
	return err == nil && resp.TTL == seconds
}

// Sweep removes the keys on the session's lease that keep does not want: those
// that a process before left behind. Keys are named in full.
func (ss *Session) Sweep(ctx context.Context, keep func(key string) bool) error {
	ctx, cancel := ss.store.deadline(ctx)
	defer cancel()
	resp, err := ss.store.client.TimeToLive(ctx, ss.lease, clientv3.WithAttachedKeys())
	if err != nil {
		return failed("listing what is on the machine's lease", err)
	}
	for _, k := range resp.Keys {
		if keep(string(k)) {
			continue
		}
		if _, _, err := ss.store.commitOwned(ctx, string(k), ss.lease); err != nil {
			return err
		}
	}
	return nil
}

// Admits returns nil if the machine's ID is its own: a *DuplicateMachineError if
// another live machine has it, other errors if the store can't say.
func (s *Store) Admits(ctx context.Context, m Machine) error {
	_, err := s.other(ctx, m)
	return err
}

// other returns the lease of a key that this machine left, and an error if the
// key is another machine's.
func (s *Store) other(ctx context.Context, m Machine) (clientv3.LeaseID, error) {
	kv, err := s.get(ctx, machineKey(m.ID))
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	have, err := decode[Machine](kv)
	if err == nil && (have.Name != m.Name || have.PrivateIPv4 != m.PrivateIPv4) {
		return 0, &DuplicateMachineError{m.ID, have}
	}
	return clientv3.LeaseID(kv.Lease), nil
}

// keepAlive renews the lease a little more often than every third of its time.
// As long as etcd does not answer the lease may yet live, for etcd extends all
// leases when it has elected a leader; it is lost only when etcd says so.
func (ss *Session) keepAlive(ctx context.Context) {
	defer close(ss.done)
	every := ss.ttl / 3
	t := time.NewTimer(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		kctx, cancel := context.WithTimeout(ctx, max(every, time.Second))
		_, err := ss.store.client.KeepAliveOnce(kctx, ss.lease)
		cancel()
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			ss.store.log.Warn("the machine's lease has expired", "lease", ss.lease)
			return
		}
		next := every
		if err != nil {
			next = min(every, 500*time.Millisecond)
		}
		t.Reset(next)
	}
}

// Done is closed when the lease is lost or the session closed. The owner then
// joins again and writes everything anew.
func (ss *Session) Done() <-chan struct{} { return ss.done }

// Lease is the lease's ID.
func (ss *Session) Lease() int64 { return int64(ss.lease) }

// Machine is the ID of the machine whose session it is.
func (ss *Session) Machine() string { return ss.id }

func (ss *Session) put(key, value string) clientv3.Op {
	return clientv3.OpPut(key, value, clientv3.WithLease(ss.lease))
}

// Update writes the machine's facts, and a copy of them on no lease, by which
// the engine can find and ask the machine when its lease has expired. The copy
// is written only when it would change.
func (ss *Session) Update(ctx context.Context, m Machine) error {
	s := ss.store
	value := encode(m)
	ops := []clientv3.Op{ss.put(s.key(machineKey(m.ID)), value)}
	kv, err := s.get(ctx, knownKey(m.ID))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err != nil || string(kv.Value) != value {
		ops = append(ops, clientv3.OpPut(s.key(knownKey(m.ID)), value))
	}
	_, _, err = s.commit(ctx, nil, ops)
	return ss.check(err)
}

// check turns etcd's word for a lost lease into one that tells.
func (ss *Session) check(err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("the machine's lease has expired: %w", err)
	}
	return err
}

// PutStates writes what systemd says of units.
func (ss *Session) PutStates(ctx context.Context, states []State) error {
	ops := make([]clientv3.Op, len(states))
	for i, st := range states {
		ops[i] = ss.put(ss.store.key(stateKey(ss.id, st.Unit)), encode(st))
	}
	_, _, err := ss.store.commit(ctx, nil, ops)
	return ss.check(err)
}

// DeleteStates removes the states of units that the machine no longer has.
func (ss *Session) DeleteStates(ctx context.Context, units []string) error {
	ops := make([]clientv3.Op, len(units))
	for i, u := range units {
		ops[i] = clientv3.OpDelete(ss.store.key(stateKey(ss.id, u)))
	}
	_, _, err := ss.store.commit(ctx, nil, ops)
	return err
}

// Register puts a key of an app, named in full, on the lease.
func (ss *Session) Register(ctx context.Context, key, value string) error {
	_, _, err := ss.store.commit(ctx, nil, []clientv3.Op{ss.put(key, value)})
	return ss.check(err)
}

// Unregister removes a key if this session's machine put it there: another
// machine may have registered the same one since.
func (ss *Session) Unregister(ctx context.Context, key string) error {
	_, _, err := ss.store.commitOwned(ctx, key, ss.lease)
	return err
}

func (s *Store) commitOwned(ctx context.Context, key string, lease clientv3.LeaseID) (int64, bool, error) {
	return s.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.LeaseValue(key), "=", lease)}, []clientv3.Op{clientv3.OpDelete(key)})
}

// Close ends the session at once: the machine and all on its lease vanish from
// the store. A daemon that only restarts uses Abandon.
func (ss *Session) Close() error {
	ss.Abandon()
	return ss.revoke(ss.lease)
}

// Abandon stops renewing the lease and leaves it for the next Join to take
// over, or to expire.
func (ss *Session) Abandon() {
	ss.stop()
	ss.ended.Wait()
}

func (ss *Session) revoke(id clientv3.LeaseID) error {
	ctx, cancel := ss.store.deadline(context.Background())
	defer cancel()
	_, err := ss.store.client.Revoke(ctx, id)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}
