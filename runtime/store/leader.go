package store

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrDeposed means that another machine leads now. Nothing was changed.
var ErrDeposed = errors.New("this machine no longer leads")

// Leadership is the right to decide placements. It is the election key, on the
// leader's session: it ends when the key does.
type Leadership struct {
	store    *Store
	machine  string
	revision int64 // at which the key was created; no two leaderships have the same
	done     chan struct{}
	stop     context.CancelFunc
}

// Campaign waits until the session's machine is elected, the session is lost
// or ctx ends.
func (s *Store) Campaign(ctx context.Context, ss *Session) (*Leadership, error) {
	key := s.key(keyElection)
	for {
		revision, holder, err := s.claim(ctx, ss)
		switch {
		case err != nil:
			return nil, err
		case revision != 0:
			lctx, stop := context.WithCancel(context.WithoutCancel(ctx))
			l := &Leadership{store: s, machine: ss.id, revision: revision, done: make(chan struct{}), stop: stop}
			go l.watch(lctx, ss)
			return l, nil
		}
		if err := s.awaitDelete(ctx, ss, key, holder); err != nil {
			return nil, err
		}
	}
}

// claim creates the election key if nobody has it, and takes over one that
// this machine's last process left. It returns the revision of the key's
// creation if the key is ours, or that of the holder's last write.
func (s *Store) claim(ctx context.Context, ss *Session) (mine, holder int64, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	key := s.key(keyElection)
	put := ss.put(key, ss.id)
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(put).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, 0, ss.check(failed("campaigning", err))
	}
	if resp.Succeeded {
		return resp.Header.Revision, 0, nil
	}
	kv := resp.Responses[0].GetResponseRange().Kvs[0]
	if string(kv.Value) != ss.id {
		return 0, kv.ModRevision, nil
	}
	// Deleted first, so that what the last process still had under way is
	// fenced off by the new creation.
	if _, _, err := s.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)}, []clientv3.Op{clientv3.OpDelete(key)}); err != nil {
		return 0, 0, err
	}
	return 0, kv.ModRevision, nil
}

// awaitDelete returns when the key is deleted after the revision.
func (s *Store) awaitDelete(ctx context.Context, ss *Session, key string, revision int64) error {
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	watch := s.client.Watch(wctx, key, clientv3.WithRev(revision+1), clientv3.WithFilterPut())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ss.Done():
			return errors.New("the machine's session ended")
		case resp, ok := <-watch:
			if errors.Is(resp.Err(), rpctypes.ErrCompacted) || len(resp.Events) > 0 {
				return nil
			}
			if err := resp.Err(); err != nil {
				return err
			}
			if !ok {
				return errors.New("etcd ended the watch of the election")
			}
		}
	}
}

// watch ends the leadership when its key goes or the session is lost.
func (l *Leadership) watch(ctx context.Context, ss *Session) {
	defer close(l.done)
	key := l.store.key(keyElection)
	from := l.revision
	for {
		err := l.store.awaitDelete(ctx, ss, key, from)
		select {
		case <-ctx.Done():
			return
		case <-ss.Done():
			return
		default:
		}
		if err == nil {
			return
		}
		// The watch failed, not the leadership: every Commit is fenced.
		t := time.NewTimer(firstRetry)
		select {
		case <-ctx.Done():
		case <-ss.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// Done is closed when the leadership is lost.
func (l *Leadership) Done() <-chan struct{} { return l.done }

// Resign lets another machine lead at once.
func (l *Leadership) Resign(ctx context.Context) error {
	l.stop()
	<-l.done
	_, _, err := l.store.commit(ctx, []clientv3.Cmp{l.fence()}, []clientv3.Op{clientv3.OpDelete(l.store.key(keyElection))})
	return err
}

func (l *Leadership) fence() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.store.key(keyElection)), "=", l.revision)
}

// PlacementChange writes or deletes one placement.
type PlacementChange struct {
	Placement Placement
	Delete    bool
}

// Commit writes placements, up to maxOps in one transaction, each fenced by
// the election: ErrDeposed if another machine has been elected since.
func (l *Leadership) Commit(ctx context.Context, changes []PlacementChange) (int64, error) {
	ops := make([]clientv3.Op, len(changes))
	for i, c := range changes {
		key := l.store.key(placementKey(c.Placement.Machine, c.Placement.Unit))
		if c.Delete {
			ops[i] = clientv3.OpDelete(key)
		} else {
			ops[i] = clientv3.OpPut(key, encode(c.Placement))
		}
	}
	revision, ok, err := l.store.commit(ctx, []clientv3.Cmp{l.fence()}, ops)
	if err == nil && !ok {
		err = ErrDeposed
	}
	return revision, err
}
