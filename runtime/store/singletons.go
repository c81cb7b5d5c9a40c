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

// Claims are a machine's rights to run singletons: the keys singletons/<unit>,
// with the machine's ID, on a lease of their own. Who has no claim must not run
// the unit; a claim ends when it is released, or when its lease has not been
// renewed for its time. Only agents ask for claims, so that whatever an engine
// decides, and however late an agent hears of it, a unit runs on one machine.
type Claims struct {
	store   *Store
	machine string
	ttl     time.Duration

	mu    sync.Mutex
	lease clientv3.LeaseID // 0: none yet
}

// ErrClaimsLost means that the lease of the claims has expired: none is held.
var ErrClaimsLost = errors.New("the lease of this machine's singletons has expired")

// Claims returns the claims of a machine. ttl is in whole seconds.
func (s *Store) Claims(machine string, ttl time.Duration) *Claims {
	return &Claims{store: s, machine: machine, ttl: ttl}
}

func (c *Claims) grant(ctx context.Context) (clientv3.LeaseID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lease != 0 {
		return c.lease, nil
	}
	gctx, cancel := c.store.deadline(ctx)
	defer cancel()
	g, err := c.store.client.Grant(gctx, int64(c.ttl/time.Second))
	if err != nil {
		return 0, failed("asking for the singletons' lease", err)
	}
	c.lease = g.ID
	return c.lease, nil
}

// Acquire asks for a unit. holder is empty when this machine has it now; else it
// is the machine that does. A claim that this machine's last process left is
// taken over.
func (c *Claims) Acquire(ctx context.Context, unit string) (holder string, err error) {
	lease, err := c.grant(ctx)
	if err != nil {
		return "", err
	}
	key := c.store.key(singletonKey(unit))
	put := clientv3.OpPut(key, c.machine, clientv3.WithLease(lease))
	actx, cancel := c.store.deadline(ctx)
	defer cancel()
	// Mine or nobody's: a comparison of a key that is not there fails, so the
	// two are asked one after the other, in one transaction.
	resp, err := c.store.client.Txn(actx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(put).
		Else(clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value(key), "=", c.machine)}, []clientv3.Op{put}, []clientv3.Op{clientv3.OpGet(key)})).
		Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		c.forget(lease)
		return "", ErrClaimsLost
	case err != nil:
		return "", failed("claiming "+unit, err)
	case resp.Succeeded:
		return "", nil
	}
	inner := resp.Responses[0].GetResponseTxn()
	if inner.Succeeded {
		return "", nil
	}
	return string(inner.Responses[0].GetResponseRange().Kvs[0].Value), nil
}

func (c *Claims) forget(lease clientv3.LeaseID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lease == lease {
		c.lease = 0
	}
}

// Release gives a unit back. It must have stopped.
func (c *Claims) Release(ctx context.Context, unit string) error {
	key := c.store.key(singletonKey(unit))
	_, _, err := c.store.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.Value(key), "=", c.machine)}, []clientv3.Op{clientv3.OpDelete(key)})
	return err
}

// Renew gives all claims their full time again, from before the call. The error
// is ErrClaimsLost if they have expired.
func (c *Claims) Renew(ctx context.Context) error {
	lease, err := c.grant(ctx)
	if err != nil {
		return err
	}
	kctx, cancel := c.store.deadline(ctx)
	defer cancel()
	_, err = c.store.client.KeepAliveOnce(kctx, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		c.forget(lease)
		return ErrClaimsLost
	}
	if err != nil {
		return failed("renewing the singletons' lease", err)
	}
	return nil
}

// AwaitFree returns when nobody has the unit, or its holder changed.
func (c *Claims) AwaitFree(ctx context.Context, unit string) error {
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	key := c.store.key(singletonKey(unit))
	gctx, gcancel := c.store.deadline(ctx)
	defer gcancel()
	resp, err := c.store.client.Get(gctx, key)
	if err != nil {
		return failed("reading who has "+unit, err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	for r := range c.store.client.Watch(wctx, key, clientv3.WithRev(resp.Header.Revision+1), clientv3.WithFilterPut()) {
		if err := r.Err(); err != nil {
			return fmt.Errorf("waiting for %s: %w", unit, err)
		}
		if len(r.Events) > 0 {
			return nil
		}
	}
	return fmt.Errorf("waiting for %s: %w", unit, errors.Join(errWatchEnded, ctx.Err()))
}
