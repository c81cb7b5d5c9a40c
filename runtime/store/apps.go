package store

import (
	"context"
	"errors"
	"maps"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// AppAccess lets an app at its own keys in etcd: apps/<app>/access below the
// prefix, which only machines and operators can read. All of it is PEM.
type AppAccess struct {
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

const dirApps = "apps/"

func appAccessKey(app string) string { return dirApps + app + "/access" }

// AppAccess reads an app's access; ErrNotFound if it has none.
func (s *Store) AppAccess(ctx context.Context, app string) (AppAccess, error) {
	kv, err := s.get(ctx, appAccessKey(app))
	if err != nil {
		return AppAccess{}, err
	}
	return decode[AppAccess](kv)
}

// PutAppAccess writes it.
func (s *Store) PutAppAccess(ctx context.Context, app string, a AppAccess) error {
	_, _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpPut(s.key(appAccessKey(app)), encode(a))})
	return err
}

func appKeysKey(app string) string { return dirApps + app + "/keys" }

// AppKeys returns the keys that SetAppKeys has set last.
func (s *Store) AppKeys(ctx context.Context, app string) (map[string]string, error) {
	kv, err := s.get(ctx, appKeysKey(app))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decode[map[string]string](kv)
}

// SetAppKeys sets keys below /apps/<app>, and removes those that it had set
// and that are not among them. Keys that are as they were set are not written:
// the app itself may have changed them.
func (s *Store) SetAppKeys(ctx context.Context, app string, keys map[string]string) error {
	had, err := s.AppKeys(ctx, app)
	if err != nil {
		return err
	}
	var ops []clientv3.Op
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if old, ok := had[k]; !ok || old != keys[k] {
			ops = append(ops, clientv3.OpPut("/apps/"+app+k, keys[k]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(had)) {
		if _, ok := keys[k]; !ok {
			ops = append(ops, clientv3.OpDelete("/apps/"+app+k))
		}
	}
	if len(ops) == 0 {
		return nil
	}
	_, _, err = s.commit(ctx, nil, append(ops, clientv3.OpPut(s.key(appKeysKey(app)), encode(keys))))
	return err
}

// DeleteApp removes an app's access and all its own keys.
func (s *Store) DeleteApp(ctx context.Context, app string) error {
	_, _, err := s.commit(ctx, nil, []clientv3.Op{
		clientv3.OpDelete(s.key(dirApps+app+"/"), clientv3.WithPrefix()),
		clientv3.OpDelete("/apps/"+app+"/", clientv3.WithPrefix()),
	})
	return err
}
