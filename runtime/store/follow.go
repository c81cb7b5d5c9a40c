package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// change is what follow hands on: all keys below a prefix, or what became of
// some of them since.
type change struct {
	snapshot bool
	revision int64
	cluster  uint64   // etcd's own, which a wiped etcd makes anew
	identity Identity // with a snapshot
	kvs      []*mvccpb.KeyValue
	events   []*clientv3.Event
	progress bool // nothing changed, but the store answers
}

const (
	pageSize   = 1000
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// follow calls f with a snapshot of all keys below the prefix and then with
// every change, until ctx ends. After a compaction or an error it begins again
// with a snapshot. lost is called when the connection is lost.
func (s *Store) follow(ctx context.Context, prefix string, f func(change) error, lost func(error)) error {
	retry := firstRetry
	for {
		start := time.Now()
		err := s.followOnce(ctx, prefix, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		lost(err)
		if time.Since(start) > 10*lastRetry {
			retry = firstRetry
		}
		s.log.Warn("following the store failed; beginning again", "prefix", prefix, "err", err)
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		retry = min(2*retry, lastRetry)
	}
}

func (s *Store) followOnce(ctx context.Context, prefix string, f func(change) error) error {
	restored := s.whenRestored()
	snapshot, err := s.list(ctx, prefix)
	if err != nil {
		return err
	}
	if err := f(snapshot); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	watch := s.client.Watch(ctx, s.key(prefix), clientv3.WithPrefix(), clientv3.WithRev(snapshot.revision+1), clientv3.WithProgressNotify())
	// What a snapshot means depends on whose store it is: with another
	// identity all is read anew.
	identity := s.client.Watch(ctx, s.key(keySchema), clientv3.WithRev(snapshot.revision+1))
	for {
		select {
		case <-restored:
			return errRestored
		case resp, ok := <-identity:
			if err := resp.Err(); err != nil || !ok {
				return errors.Join(err, errWatchEnded)
			}
			if len(resp.Events) > 0 && prefix != "" {
				return errIdentity
			}
		case resp, ok := <-watch:
			if err := resp.Err(); err != nil || !ok {
				return errors.Join(err, errWatchEnded)
			}
			// A watch goes on, by its number alone, on an etcd that was made
			// anew.
			if id := resp.Header.ClusterId; id != snapshot.cluster {
				return fmt.Errorf("another etcd cluster answers: %x, not %x", id, snapshot.cluster)
			}
			c := change{revision: resp.Header.Revision, events: resp.Events, progress: len(resp.Events) == 0}
			if err := f(c); err != nil {
				return err
			}
		}
	}
}

var (
	errWatchEnded = errors.New("etcd ended the watch")
	errIdentity   = errors.New("the store's identity was written")
	errRestored   = errors.New("etcd was restored from a snapshot, or made anew")
)

// whenRestored is closed when etcd is seen to be at an earlier revision than
// before. Watches don't show that: they wait, by their number, for what is newer.
func (s *Store) whenRestored() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restored
}

// beginAnew has everything that is followed listed again.
func (s *Store) beginAnew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.restored)
	s.restored = make(chan struct{})
}

// list reads all keys below a prefix, page by page, and the schema, at one
// revision.
func (s *Store) list(ctx context.Context, prefix string) (change, error) {
	c := change{snapshot: true}
	rctx, cancel := s.deadline(ctx)
	defer cancel()
	start := s.key(prefix)
	end := clientv3.GetPrefixRangeEnd(start)
	resp, err := s.client.Txn(rctx).Then(
		clientv3.OpGet(s.key(keySchema)),
		clientv3.OpGet(start, clientv3.WithRange(end), clientv3.WithLimit(pageSize)),
	).Commit()
	if err != nil {
		return c, failed("listing "+prefix, err)
	}
	c.revision, c.cluster = resp.Header.Revision, resp.Header.ClusterId
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		if c.identity, err = decode[Identity](kvs[0]); err != nil {
			return c, err
		}
	}
	page := resp.Responses[1].GetResponseRange()
	c.kvs = page.Kvs
	for more := page.More; more; {
		next := string(c.kvs[len(c.kvs)-1].Key) + "\x00"
		pctx, cancel := s.deadline(ctx)
		page, err := s.client.Get(pctx, next, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(c.revision))
		cancel()
		if errors.Is(err, rpctypes.ErrCompacted) {
			return s.list(ctx, prefix)
		}
		if err != nil {
			return c, failed("listing "+prefix, err)
		}
		c.kvs = append(c.kvs, page.Kvs...)
		more = page.More
	}
	return c, nil
}

// PlacementUpdate is what changed for one machine.
type PlacementUpdate struct {
	Snapshot bool // Put is all there is
	Identity Identity
	Etcd     uint64 // etcd's own ID, which one that is restored or made anew has anew
	Revision int64
	Put      []Placement
	Deleted  []string // names of units
}

// FollowPlacements calls f with the machine's placements, and again whenever
// they change, until ctx ends. The first call, and the first after every gap,
// is a snapshot. An identity that is empty or another one than before means
// that the store was wiped: what is missing then was not taken away by anyone.
func (s *Store) FollowPlacements(ctx context.Context, machine string, f func(PlacementUpdate)) error {
	dir := dirPlacements + machine + "/"
	name := func(key []byte) string { return string(key[len(s.key(dir)):]) }
	var identity Identity
	var etcd uint64
	handle := func(c change) error {
		if c.progress {
			return nil
		}
		u := PlacementUpdate{Snapshot: c.snapshot, Revision: c.revision}
		if c.snapshot {
			identity, etcd = c.identity, c.cluster
		}
		put := func(kv *mvccpb.KeyValue) {
			p, err := decode[Placement](kv)
			if err != nil {
				s.log.Error("a placement can't be read; it is left as it was", "err", err)
				return
			}
			p.Revision = kv.ModRevision
			u.Put = append(u.Put, p)
		}
		for _, kv := range c.kvs {
			put(kv)
		}
		for _, e := range c.events {
			if e.Type == clientv3.EventTypeDelete {
				u.Deleted = append(u.Deleted, name(e.Kv.Key))
			} else {
				put(e.Kv)
			}
		}
		if len(u.Deleted) > 0 {
			// Whoever deletes everything deletes the schema with it, and
			// that the watch does not show.
			now, err := s.Identity(ctx)
			if err != nil && !errors.Is(err, ErrNoSchema) {
				return err
			}
			identity = now
		}
		u.Identity, u.Etcd = identity, etcd
		f(u)
		return nil
	}
	return s.follow(ctx, dir, handle, func(error) {})
}
