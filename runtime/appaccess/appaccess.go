// Package appaccess puts what an app needs to reach its own keys in etcd, and
// its secrets, where the app's containers can mount it: in memory, never on a
// disk.
package appaccess

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"plasmid/runtime/store"
)

// Store is where access and secrets are read from.
type Store interface {
	AppFiles(ctx context.Context, app string) (store.AppFiles, error)
	FollowApps(ctx context.Context, f func(apps []string)) error
}

// Writer keeps <Dir>/<app>/{ca.crt,client.crt,client.key,env} and
// <Dir>/<app>/secrets/<name> as the store has them. Only root gets at Dir;
// containers see the directory of their app alone, where each file says who may
// read it.
type Writer struct {
	Store     Store
	Dir       string   // on a tmpfs
	Endpoints []string // of etcd
	Logger    *slog.Logger

	mu sync.Mutex // one writes at a time
}

// Ensure writes an app's files. What is there already does while the store is
// away.
func (w *Writer) Ensure(ctx context.Context, app string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	f, err := w.Store.AppFiles(ctx, app)
	if err != nil {
		if _, serr := os.Stat(filepath.Join(w.Dir, app, "env")); serr == nil {
			return nil
		}
		return fmt.Errorf("access of app %s to etcd: %w", app, err)
	}
	return w.write(app, f)
}

// Run brings the files of the apps that this machine has up to every change of
// their access and secrets, until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	_ = w.Store.FollowApps(ctx, func(changed []string) {
		dirs, err := os.ReadDir(w.Dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.Logger.Error("files of apps can't be brought up to date", "err", err)
		}
		for _, d := range dirs {
			if changed != nil && !slices.Contains(changed, d.Name()) {
				continue
			}
			if err := w.refresh(ctx, d.Name()); err != nil && ctx.Err() == nil {
				w.Logger.Error("files of an app can't be brought up to date", "app", d.Name(), "err", err)
			}
		}
	})
}

// refresh writes an app's files anew. They go when the app was destroyed; a
// store that was wiped destroys nothing.
func (w *Writer) refresh(ctx context.Context, app string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	f, err := w.Store.AppFiles(ctx, app)
	if errors.Is(err, store.ErrNotFound) {
		return os.RemoveAll(filepath.Join(w.Dir, app))
	}
	if err != nil {
		return err
	}
	return w.write(app, f)
}

func (w *Writer) write(app string, f store.AppFiles) error {
	w.warn(app, f.Access.Cert)
	dir := filepath.Join(w.Dir, app)
	secrets := filepath.Join(dir, "secrets")
	if err := os.MkdirAll(secrets, 0o755); err != nil {
		return err
	}
	// Nobody but root gets through Dir; users of containers, for whom the mount
	// is the root of all, get through what is below.
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{w.Dir, 0o700}, {dir, 0o755}, {secrets, 0o711}} {
		if err := os.Chmod(d.name, d.mode); err != nil {
			return err
		}
	}
	for name, s := range f.Secrets {
		if err := replace(filepath.Join(secrets, name), s.Value, 0o400, s.UID); err != nil {
			return fmt.Errorf("secret %s: %w", name, err)
		}
	}
	have, err := os.ReadDir(secrets)
	if err != nil {
		return err
	}
	for _, e := range have {
		if _, ok := f.Secrets[e.Name()]; !ok {
			if err := os.Remove(filepath.Join(secrets, e.Name())); err != nil {
				return err
			}
		}
	}
	for _, file := range []struct{ name, data string }{
		{"ca.crt", f.Access.CA}, {"client.key", f.Access.Key}, {"client.crt", f.Access.Cert},
		{"env", "ETCD_ENDPOINTS=" + strings.Join(w.Endpoints, ",") + "\n"}, // last: with it all is there
	} {
		if err := replace(filepath.Join(dir, file.name), []byte(file.data), 0o600, 0); err != nil {
			return err
		}
	}
	return nil
}

// replace puts a file in place whole, unless it is as it should be. One that is
// another user's can't be looked into, so it is written anew.
func replace(name string, data []byte, mode os.FileMode, uid int) error {
	if uid == 0 {
		if old, err := os.ReadFile(name); err == nil && string(old) == string(data) {
			return nil
		}
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if uid != 0 {
		if err := f.Chown(uid, -1); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), name)
}

// expiresSoon is when to begin to warn of a certificate: plasmid up renews it
// long before.
const expiresSoon = 30 * 24 * time.Hour

func (w *Writer) warn(app, cert string) {
	block, _ := pem.Decode([]byte(cert))
	if block == nil {
		return
	}
	if c, err := x509.ParseCertificate(block.Bytes); err == nil && time.Until(c.NotAfter) < expiresSoon {
		w.Logger.Warn("an app's certificate for etcd expires soon; plasmid up renews it", "app", app, "expires", c.NotAfter)
	}
}
