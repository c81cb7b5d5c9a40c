package store

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Order is what an operator wants of a machine: orders/<machine>. A machine
// that serves as usual has none.
type Order struct {
	Machine string    `json:"machine"`
	Drain   bool      `json:"drain,omitempty"`  // its units go elsewhere; else it only gets none
	Budget  int       `json:"budget,omitempty"` // how many at a time; 0: one
	By      string    `json:"by,omitempty"`
	Since   time.Time `json:"since"`

	Revision int64 `json:"-"`
}

// Rebalance is the order to even out the numbers of units: rebalance. The
// engine removes it when nothing is left to do.
type Rebalance struct {
	Budget int       `json:"budget,omitempty"`
	By     string    `json:"by,omitempty"`
	Since  time.Time `json:"since"`
}

// SetOrder gives a machine an order; the same again changes nothing. The
// revision is 0 then.
func (s *Store) SetOrder(ctx context.Context, o Order) (int64, error) {
	kv, err := s.get(ctx, orderKey(o.Machine))
	if err == nil {
		if have, err := decode[Order](kv); err == nil && have.Drain == o.Drain && have.Budget == o.Budget {
			return 0, nil
		}
	}
	r, ok, err := s.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(s.key(knownKey(o.Machine))), ">", 0)},
		[]clientv3.Op{clientv3.OpPut(s.key(orderKey(o.Machine)), encode(o))})
	if err == nil && !ok {
		err = fmt.Errorf("machine %s: %w", o.Machine, ErrNotFound)
	}
	return r, err
}

// DeleteOrder has a machine serve as usual again.
func (s *Store) DeleteOrder(ctx context.Context, machine string) (int64, error) {
	r, _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpDelete(s.key(orderKey(machine)))})
	return r, err
}

// SetRebalance orders a rebalance; nil takes the order back.
func (s *Store) SetRebalance(ctx context.Context, o *Rebalance) (int64, error) {
	op := clientv3.OpDelete(s.key(keyRebalance))
	if o != nil {
		op = clientv3.OpPut(s.key(keyRebalance), encode(o))
	}
	r, _, err := s.commit(ctx, nil, []clientv3.Op{op})
	return r, err
}

// EndRebalance removes the order, fenced as Commit is.
func (l *Leadership) EndRebalance(ctx context.Context) (int64, error) {
	r, ok, err := l.store.commit(ctx, []clientv3.Cmp{l.fence()}, []clientv3.Op{clientv3.OpDelete(l.store.key(keyRebalance))})
	if err == nil && !ok {
		err = ErrDeposed
	}
	return r, err
}
