package store

import (
	"context"

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

// DeleteApp removes an app's access and all its own keys.
func (s *Store) DeleteApp(ctx context.Context, app string) error {
	_, _, err := s.commit(ctx, nil, []clientv3.Op{
		clientv3.OpDelete(s.key(dirApps+app+"/"), clientv3.WithPrefix()),
		clientv3.OpDelete("/apps/"+app+"/", clientv3.WithPrefix()),
	})
	return err
}
