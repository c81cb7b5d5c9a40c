// Package appaccess puts what an app needs to reach its own keys in etcd where
// the app's containers can mount it.
package appaccess

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"plasmid/runtime/store"
)

// Store is where access is read from.
type Store interface {
	AppAccess(ctx context.Context, app string) (store.AppAccess, error)
}

// Writer writes <Dir>/<app>/{ca.crt,client.crt,client.key,env}, for root only.
type Writer struct {
	Store     Store
	Dir       string
	Endpoints []string // of etcd
}

// Ensure writes an app's files. What is there already does while the store is
// away.
func (w *Writer) Ensure(ctx context.Context, app string) error {
	dir := filepath.Join(w.Dir, app)
	a, err := w.Store.AppAccess(ctx, app)
	if err != nil {
		if _, serr := os.Stat(filepath.Join(dir, "env")); serr == nil {
			return nil
		}
		return fmt.Errorf("access of app %s to etcd: %w", app, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files := []struct{ name, data string }{
		{"ca.crt", a.CA}, {"client.crt", a.Cert}, {"client.key", a.Key},
		{"env", "ETCD_ENDPOINTS=" + strings.Join(w.Endpoints, ",") + "\n"}, // last: with it all is there
	}
	for _, f := range files {
		name := filepath.Join(dir, f.name)
		if old, err := os.ReadFile(name); err == nil && string(old) == f.data {
			continue
		}
		if err := os.WriteFile(name+".new", []byte(f.data), 0o600); err != nil {
			return err
		}
		if err := os.Rename(name+".new", name); err != nil {
			return err
		}
	}
	return nil
}
