package template

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// requestTimeout is for one read of the store.
	requestTimeout = 5 * time.Second
	// probeEvery is how often a watch that says nothing is doubted.
	probeEvery = 10 * time.Second
	// maxKeys is how many keys are read in one transaction: two operations
	// each, of the 128 that etcd allows by default.
	maxKeys = 60
)

// Etcd is a Store over etcd v3.
type Etcd struct {
	Client *clientv3.Client

	cluster atomic.Uint64 // etcd's own ID, as of the last read
}

// below is the range of keys under a directory, and the directory's own key.
func below(key string) (own bool, dir string) {
	if key == "/" {
		return false, "/"
	}
	return true, key + "/"
}

// Get reads all keys at one revision.
func (e *Etcd) Get(ctx context.Context, keys []string) (map[string]string, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found := map[string]string{}
	var revision int64
	for part := range slices.Chunk(keys, maxKeys) {
		var ops []clientv3.Op
		at := clientv3.WithRev(revision) // 0, at first: the newest
		for _, key := range part {
			own, dir := below(key)
			if own {
				ops = append(ops, clientv3.OpGet(key, at))
			}
			ops = append(ops, clientv3.OpGet(dir, clientv3.WithPrefix(), at))
		}
		resp, err := e.Client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil, 0, fmt.Errorf("reading %v from etcd: %w", part, err)
		}
		if revision == 0 {
			revision = resp.Header.Revision
			e.cluster.Store(resp.Header.ClusterId)
		}
		for _, r := range resp.Responses {
			for _, kv := range r.GetResponseRange().Kvs {
				found[string(kv.Key)] = string(kv.Value)
			}
		}
	}
	return found, revision, nil
}

// Watch returns nil at the first change after the revision. Compaction counts
// as a change: what was compacted away can only be had by reading again. So
// does an etcd that was made anew, whose revisions begin again: a watch from a
// revision of before would wait there for ever, and say nothing.
func (e *Etcd) Watch(ctx context.Context, keys []string, revision int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	from := clientv3.WithRev(revision + 1)
	done := make(chan error)
	n := 1
	go func() { done <- e.probe(ctx, keys[0], revision) }()
	follow := func(ch clientv3.WatchChan) {
		n++
		go func() { done <- first(ctx, ch) }()
	}
	for _, key := range keys {
		own, dir := below(key)
		if own {
			follow(e.Client.Watch(ctx, key, from))
		}
		follow(e.Client.Watch(ctx, dir, from, clientv3.WithPrefix()))
	}
	err := <-done
	cancel()
	for range n - 1 {
		<-done
	}
	if err != nil {
		return fmt.Errorf("watching %v in etcd: %w", keys, err)
	}
	return nil
}

// first returns nil when the watch has news.
func first(ctx context.Context, ch clientv3.WatchChan) error {
	for resp := range ch {
		if len(resp.Events) > 0 || errors.Is(resp.Err(), rpctypes.ErrCompacted) {
			return nil
		}
		if err := resp.Err(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.New("etcd ended the watch")
}

// probe returns nil when etcd is not the one that the revision is of.
func (e *Etcd) probe(ctx context.Context, key string, revision int64) error {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		if e.renewed(ctx, key, revision) {
			return nil
		}
	}
}

func (e *Etcd) renewed(ctx context.Context, key string, revision int64) bool {
	_, dir := below(key)
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := e.Client.Get(ctx, dir, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return false // the watch itself says what is wrong
	}
	return resp.Header.Revision < revision || resp.Header.ClusterId != e.cluster.Load()
}
