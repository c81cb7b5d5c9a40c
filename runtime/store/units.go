package store

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/unit"
)

// UnitChange is one wish of a user. Without Text the unit must exist and keeps
// its text; with Delete it goes.
type UnitChange struct {
	Name    string
	Text    string
	Wish    Wish
	Replace bool // the unit may exist with another text
	Delete  bool
	Absent  bool // with Delete: that there is none is no error
}

// ApplyUnits carries out all changes or none of them, as long as they fit one
// transaction. The errors ErrNotFound and ErrExists name the unit. It returns
// the revision at which a Mirror shows the changes, 0 if nothing had to change.
func (s *Store) ApplyUnits(ctx context.Context, changes []UnitChange) (int64, error) {
	const tries = 5
	for range tries {
		conditions, ops, err := s.unitOps(ctx, changes)
		if err != nil {
			return 0, err
		}
		if len(ops) == 0 {
			return 0, nil
		}
		// The conditions count as operations for etcd's limit.
		if len(ops) > maxOps {
			return s.applyPieces(ctx, conditions, ops)
		}
		r, ok, err := s.commit(ctx, conditions, ops)
		if err != nil || ok {
			return r, err
		}
	}
	return 0, fmt.Errorf("units: %w", ErrConflict)
}

// applyPieces commits more changes than fit one transaction.
func (s *Store) applyPieces(ctx context.Context, conditions []clientv3.Cmp, ops []clientv3.Op) (int64, error) {
	var revision int64
	for i := 0; i < len(ops); i += maxOps {
		end := min(i+maxOps, len(ops))
		ok, r, err := s.commitPiece(ctx, conditions[i:end], ops[i:end])
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, fmt.Errorf("units: %w", ErrConflict)
		}
		revision = r
	}
	return revision, nil
}

// unitOps reads the units that change and works out one condition and one
// operation for each that does.
func (s *Store) unitOps(ctx context.Context, changes []UnitChange) ([]clientv3.Cmp, []clientv3.Op, error) {
	have, err := s.readUnits(ctx, changes)
	if err != nil {
		return nil, nil, err
	}
	var conditions []clientv3.Cmp
	var ops []clientv3.Op
	for _, c := range changes {
		old, exists := have[c.Name]
		next := Unit{Name: c.Name, Text: c.Text, Wish: c.Wish}
		switch {
		case !exists && c.Delete && c.Absent:
			continue
		case !exists && (c.Delete || c.Text == ""):
			return nil, nil, fmt.Errorf("unit %s: %w", c.Name, ErrNotFound)
		case exists && c.Text == "":
			next.Text = old.Text
		case exists && c.Text != old.Text && !c.Replace && !c.Delete:
			return nil, nil, fmt.Errorf("unit %s with another text: %w", c.Name, ErrExists)
		}
		if c.Wish == "" {
			if next.Wish = old.Wish; !exists {
				next.Wish = Inactive
			}
		}
		next.Hash = unit.Hash(next.Text)
		key := s.key(unitKey(c.Name))
		if exists && !c.Delete && next.Text == old.Text && next.Wish == old.Wish {
			continue
		}
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(key), "=", old.Revision))
		if c.Delete {
			ops = append(ops, clientv3.OpDelete(key))
		} else {
			ops = append(ops, clientv3.OpPut(key, encode(next)))
		}
	}
	return conditions, ops, nil
}

func (s *Store) readUnits(ctx context.Context, changes []UnitChange) (map[string]Unit, error) {
	have := map[string]Unit{}
	for i := 0; i < len(changes); i += maxOps {
		var gets []clientv3.Op
		for _, c := range changes[i:min(i+maxOps, len(changes))] {
			gets = append(gets, clientv3.OpGet(s.key(unitKey(c.Name))))
		}
		rctx, cancel := s.deadline(ctx)
		resp, err := s.client.Txn(rctx).Then(gets...).Commit()
		cancel()
		if err != nil {
			return nil, failed("reading units", err)
		}
		for _, r := range resp.Responses {
			for _, kv := range r.GetResponseRange().Kvs {
				u, err := decode[Unit](kv)
				if err != nil {
					return nil, err
				}
				u.Revision = kv.ModRevision
				have[u.Name] = u
			}
		}
	}
	return have, nil
}

// Unit reads one unit.
func (s *Store) Unit(ctx context.Context, name string) (Unit, error) {
	kv, err := s.get(ctx, unitKey(name))
	if errors.Is(err, ErrNotFound) {
		return Unit{}, fmt.Errorf("unit %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return Unit{}, err
	}
	u, err := decode[Unit](kv)
	u.Revision = kv.ModRevision
	return u, err
}

// SetMetadata gives a machine metadata over what its node file says. An empty
// value hides a key of the node file.
func (s *Store) SetMetadata(ctx context.Context, machine, key, value string) (int64, error) {
	r, _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpPut(s.key(metadataKey(machine, key)), value)})
	return r, err
}

// DeleteMetadata takes back what SetMetadata set.
func (s *Store) DeleteMetadata(ctx context.Context, machine, key string) (int64, error) {
	r, _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpDelete(s.key(metadataKey(machine, key)))})
	return r, err
}

// ForgetMachine removes all that is kept of a machine that will not return.
// Its units are placed elsewhere.
func (s *Store) ForgetMachine(ctx context.Context, id string) error {
	_, _, err := s.commit(ctx, nil, []clientv3.Op{
		clientv3.OpDelete(s.key(machineKey(id))),
		clientv3.OpDelete(s.key(dirStates+id+"/"), clientv3.WithPrefix()),
		clientv3.OpDelete(s.key(dirPlacements+id+"/"), clientv3.WithPrefix()),
		clientv3.OpDelete(s.key(dirMetadata+id+"/"), clientv3.WithPrefix()),
		clientv3.OpDelete(s.key(orderKey(id))),
		clientv3.OpDelete(s.key(knownKey(id))),
	})
	return err
}
