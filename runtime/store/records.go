package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/unit"
)

// Avoid says that a unit is not to go to a machine for a time, because it failed
// there: avoid/<unit>/<machine>. The engine writes and removes it.
type Avoid struct {
	Unit    string    `json:"unit"`
	Machine string    `json:"machine"`
	Hash    string    `json:"hash"` // of the text that failed
	Why     string    `json:"why"`  // as a verdict has it
	Until   time.Time `json:"until"`
}

// Done says that a unit that runs once ran to its end: done/<unit>.
type Done struct {
	Unit    string    `json:"unit"`
	Hash    string    `json:"hash"`
	Machine string    `json:"machine"`
	OK      bool      `json:"ok"`
	At      time.Time `json:"at"`
}

// Records are what the engine remembers of units.
type Records struct {
	Avoid     []Avoid
	Done      []Done
	Forgive   []Avoid  // no longer to be avoided
	Forget    []string // units that are no longer done
	RollBacks []RollBack
}

// RollBack gives a unit an older text, if it still is as the engine saw it.
type RollBack struct {
	Unit Unit // as it was seen
	Text string
}

// Empty reports whether there is nothing to write.
func (r *Records) Empty() bool {
	return len(r.Avoid)+len(r.Done)+len(r.Forgive)+len(r.Forget)+len(r.RollBacks) == 0
}

// Record writes what the engine remembers, fenced as Commit is. A unit that was
// changed by somebody else meanwhile is not rolled back.
func (l *Leadership) Record(ctx context.Context, r Records) (int64, error) {
	s := l.store
	var ops []clientv3.Op
	for _, a := range r.Avoid {
		ops = append(ops, clientv3.OpPut(s.key(avoidKey(a.Unit, a.Machine)), encode(a)))
	}
	for _, d := range r.Done {
		ops = append(ops, clientv3.OpPut(s.key(doneKey(d.Unit)), encode(d)))
	}
	for _, a := range r.Forgive {
		ops = append(ops, clientv3.OpDelete(s.key(avoidKey(a.Unit, a.Machine))))
	}
	for _, u := range r.Forget {
		ops = append(ops, clientv3.OpDelete(s.key(doneKey(u))))
	}
	revision, ok, err := s.commit(ctx, []clientv3.Cmp{l.fence()}, ops)
	if err == nil && !ok && len(ops) > 0 {
		err = ErrDeposed
	}
	for _, b := range r.RollBacks {
		if err != nil {
			break
		}
		next := b.Unit
		next.Text, next.Hash = b.Text, unit.Hash(b.Text)
		key := s.key(unitKey(next.Name))
		var changed int64
		changed, ok, err = s.commit(ctx, []clientv3.Cmp{l.fence(), clientv3.Compare(clientv3.ModRevision(key), "=", b.Unit.Revision)},
			[]clientv3.Op{clientv3.OpPut(key, encode(next))})
		if err == nil && !ok {
			s.log.Info("a unit was changed by somebody else, so it is not rolled back", "unit", next.Name)
			continue
		}
		revision = max(revision, changed)
	}
	if err != nil && !errors.Is(err, ErrDeposed) {
		err = fmt.Errorf("recording what became of units: %w", err)
	}
	return revision, err
}
