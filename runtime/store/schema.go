package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// SchemaVersion is of the keys as this program writes them.
const SchemaVersion = 1

// Identity is the key schema: which cluster's keys these are, and their
// version. A store without it, or with another one, is not the cluster's.
type Identity struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // random
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// ErrNoSchema means that the store holds no cluster: it is new, or was wiped.
var ErrNoSchema = errors.New("the store holds no cluster")

// NewerSchemaError means that a newer program has written the store.
type NewerSchemaError struct{ Have, Know int }

func (e *NewerSchemaError) Error() string {
	return fmt.Sprintf("the store has schema version %d, this program knows up to %d: install a newer plasmid on this machine", e.Have, e.Know)
}

// migration brings the store from one version to the next.
type migration func(context.Context, *Store) ([]clientv3.Op, error)

// migrations[v] leads from version v to v+1. Version 1 is the first.
var migrations = map[int]migration{}

// Init makes the store a cluster's, or migrates it if it is one of an older
// version. It may be called again and changes nothing then.
func (s *Store) Init(ctx context.Context, name string) (Identity, error) {
	var id [8]byte
	rand.Read(id[:])
	fresh := Identity{SchemaVersion, hex.EncodeToString(id[:]), name, time.Now().UTC().Truncate(time.Second)}
	_, _, err := s.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(s.key(keySchema)), "=", 0)},
		[]clientv3.Op{clientv3.OpPut(s.key(keySchema), encode(fresh))})
	if err != nil {
		return Identity{}, err
	}
	have, err := s.Identity(ctx)
	if err != nil {
		return have, err
	}
	if have.Name != name {
		return have, fmt.Errorf("the store is of cluster %q, not of %q", have.Name, name)
	}
	return s.migrate(ctx, have, migrations, SchemaVersion)
}

// Migrate brings a store that an older program has written to SchemaVersion.
func (l *Leadership) Migrate(ctx context.Context) (Identity, error) {
	return l.migrate(ctx, migrations, SchemaVersion)
}

func (l *Leadership) migrate(ctx context.Context, steps map[int]migration, to int) (Identity, error) {
	have, err := l.store.Identity(ctx)
	if err != nil {
		return have, err
	}
	return l.store.migrate(ctx, have, steps, to, l.fence())
}

// migrate applies one migration at a time, each with its version in one
// transaction that only one of several programs can win, and under conditions:
// that of a leader.
func (s *Store) migrate(ctx context.Context, have Identity, steps map[int]migration, to int, conditions ...clientv3.Cmp) (Identity, error) {
	for have.Version < to {
		step := steps[have.Version]
		if step == nil {
			return have, fmt.Errorf("there is no way from schema version %d to %d", have.Version, have.Version+1)
		}
		kv, err := s.get(ctx, keySchema)
		if err != nil {
			return have, err
		}
		ops, err := step(ctx, s)
		if err != nil {
			return have, fmt.Errorf("migrating the store from schema version %d: %w", have.Version, err)
		}
		from := have.Version
		have.Version++
		ops = append(ops, clientv3.OpPut(s.key(keySchema), encode(have)))
		unchanged := clientv3.Compare(clientv3.ModRevision(s.key(keySchema)), "=", kv.ModRevision)
		if _, ok, err := s.commit(ctx, append([]clientv3.Cmp{unchanged}, conditions...), ops); err != nil {
			return have, err
		} else if !ok {
			if have, err = s.Identity(ctx); err != nil {
				return have, err
			}
			if have.Version == from && len(conditions) > 0 {
				return have, ErrDeposed // nobody else has migrated it
			}
		}
	}
	return have, nil
}

// Identity reads the key schema. The error is, or wraps, ErrNoSchema or a
// *NewerSchemaError.
func (s *Store) Identity(ctx context.Context) (Identity, error) {
	kv, err := s.get(ctx, keySchema)
	if errors.Is(err, ErrNotFound) {
		return Identity{}, ErrNoSchema
	}
	if err != nil {
		return Identity{}, err
	}
	id, err := decode[Identity](kv)
	if err != nil {
		return id, err
	}
	return id, id.check()
}

func (i Identity) check() error {
	switch {
	case i.ID == "":
		return ErrNoSchema
	case i.Version > SchemaVersion:
		return &NewerSchemaError{i.Version, SchemaVersion}
	}
	return nil
}
