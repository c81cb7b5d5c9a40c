package template

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// requestTimeout is for one read of the store.
const requestTimeout = 5 * time.Second

// Etcd is a Store over etcd v3.
type Etcd struct{ Client *clientv3.Client }

// below is the range of keys under a directory, and the directory's own key.
func below(key string) (own bool, dir string) {
	if key == "/" {
		return false, "/"
	}
	return true, key + "/"
}

// Get reads all keys in one transaction, so at one revision.
func (e Etcd) Get(ctx context.Context, keys []string) (map[string]string, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var ops []clientv3.Op
	for _, key := range keys {
		own, dir := below(key)
		if own {
			ops = append(ops, clientv3.OpGet(key))
		}
		ops = append(ops, clientv3.OpGet(dir, clientv3.WithPrefix()))
	}
	resp, err := e.Client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, 0, fmt.Errorf("reading %v from etcd: %w", keys, err)
	}
	found := map[string]string{}
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			found[string(kv.Key)] = string(kv.Value)
		}
	}
	return found, resp.Header.Revision, nil
}

// Watch returns nil at the first change after the revision. Compaction counts
// as a change: what was compacted away can only be had by reading again.
func (e Etcd) Watch(ctx context.Context, keys []string, revision int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	from := clientv3.WithRev(revision + 1)
	done := make(chan error)
	n := 0
	follow := func(ch clientv3.WatchChan) {
		n++
		go func() {
			var err error
			for resp := range ch {
				if len(resp.Events) > 0 || errors.Is(resp.Err(), rpctypes.ErrCompacted) {
					err = nil
					break
				}
				if err = resp.Err(); err != nil {
					break
				}
				err = errors.New("etcd ended the watch")
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			done <- err
		}()
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
