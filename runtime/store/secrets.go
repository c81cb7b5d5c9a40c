package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Secret is a value that an app's containers get as a file:
// apps/<app>/secrets/<name> below the prefix, which only machines and operators
// can read.
type Secret struct {
	Value   []byte    `json:"value"`
	UID     int       `json:"uid,omitempty"` // who may read it in containers
	Changed time.Time `json:"changed"`
}

// String keeps the value out of logs.
func (s Secret) String() string { return fmt.Sprintf("secret of %d bytes", len(s.Value)) }

// GoString is the same for %#v.
func (s Secret) GoString() string { return s.String() }

// SecretInfo is what may be shown of a secret.
type SecretInfo struct {
	App     string    `json:"app"`
	Name    string    `json:"name"`
	Bytes   int       `json:"bytes"`
	UID     int       `json:"uid"`
	Changed time.Time `json:"changed"`
}

// MaxSecret is the longest value of a secret, in bytes.
const MaxSecret = 256 << 10

var (
	appName    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	secretName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// CheckSecret says what is wrong with the names of an app and a secret.
func CheckSecret(app, name string) error {
	if !appName.MatchString(app) {
		return fmt.Errorf("%q cannot be an app's name: use lower-case letters, digits and inner dashes, at most 63", app)
	}
	if !secretName.MatchString(name) {
		return fmt.Errorf("%q cannot be a secret's name: it is a file's name of letters, digits and ._-, at most 128, not beginning with a dot or dash", name)
	}
	return nil
}

func secretKey(app, name string) string { return dirApps + app + "/secrets/" + name }

// PutSecret writes a secret and returns the revision, 0 if it was so already.
func (s *Store) PutSecret(ctx context.Context, app, name string, secret Secret) (int64, error) {
	if err := CheckSecret(app, name); err != nil {
		return 0, err
	}
	if len(secret.Value) > MaxSecret {
		return 0, fmt.Errorf("secret %s is longer than %d KiB", name, MaxSecret>>10)
	}
	kv, err := s.get(ctx, secretKey(app, name))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return 0, err
	}
	if err == nil {
		if have, err := decode[Secret](kv); err == nil && have.UID == secret.UID && bytes.Equal(have.Value, secret.Value) {
			return 0, nil
		}
	}
	revision, _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpPut(s.key(secretKey(app, name)), encode(secret))})
	return revision, err
}

// DeleteSecret removes a secret; ErrNotFound if there is none.
func (s *Store) DeleteSecret(ctx context.Context, app, name string) (int64, error) {
	if err := CheckSecret(app, name); err != nil {
		return 0, err
	}
	key := s.key(secretKey(app, name))
	revision, found, err := s.commit(ctx,
		[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), ">", 0)}, []clientv3.Op{clientv3.OpDelete(key)})
	if err == nil && !found {
		err = fmt.Errorf("app %s has no secret %s: %w", app, name, ErrNotFound)
	}
	return revision, err
}

// Secrets lists an app's secrets, or with an empty name those of all apps.
func (s *Store) Secrets(ctx context.Context, app string) ([]SecretInfo, error) {
	dir := dirApps
	if app != "" {
		dir += app + "/secrets/"
	}
	c, err := s.list(ctx, dir)
	if err != nil {
		return nil, err
	}
	infos := []SecretInfo{}
	for _, kv := range c.kvs {
		app, name, ok := secretOf(strings.TrimPrefix(string(kv.Key), s.prefix))
		if !ok {
			continue
		}
		secret, err := decode[Secret](kv)
		if err != nil {
			return nil, err
		}
		infos = append(infos, SecretInfo{app, name, len(secret.Value), secret.UID, secret.Changed})
	}
	return infos, nil
}

func secretOf(key string) (app, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, dirApps)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/secrets/")
}

// AppFiles are what an app's containers get: access to its keys, and its
// secrets by name.
type AppFiles struct {
	Access  AppAccess
	Secrets map[string]Secret
}

// AppFiles reads them at one revision; ErrNotFound if the app has no access:
// it was not deployed, or was destroyed.
func (s *Store) AppFiles(ctx context.Context, app string) (AppFiles, error) {
	f := AppFiles{Secrets: map[string]Secret{}}
	c, err := s.list(ctx, dirApps+app+"/")
	if err != nil {
		return f, err
	}
	if !slices.ContainsFunc(c.kvs, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == s.key(appAccessKey(app)) }) {
		if c.identity == (Identity{}) {
			return f, fmt.Errorf("app %s: %w", app, ErrNoSchema) // a store that was wiped says nothing of apps
		}
		return f, fmt.Errorf("app %s: %w", app, ErrNotFound)
	}
	for _, kv := range c.kvs {
		if string(kv.Key) == s.key(appAccessKey(app)) {
			if f.Access, err = decode[AppAccess](kv); err != nil {
				return f, err
			}
			continue
		}
		if _, name, ok := secretOf(strings.TrimPrefix(string(kv.Key), s.prefix)); ok && secretName.MatchString(name) {
			if f.Secrets[name], err = decode[Secret](kv); err != nil {
				return f, err
			}
		}
	}
	return f, nil
}

// FollowApps calls f with the names of apps whose access or secrets have
// changed, until ctx ends; with nil when it may be any of them.
func (s *Store) FollowApps(ctx context.Context, f func(apps []string)) error {
	return s.follow(ctx, dirApps, func(c change) error {
		if c.snapshot {
			f(nil)
			return nil
		}
		var apps []string
		for _, e := range c.events {
			app, _ := splitKey(strings.TrimPrefix(string(e.Kv.Key), s.key(dirApps)))
			if !slices.Contains(apps, app) {
				apps = append(apps, app)
			}
		}
		if len(apps) > 0 {
			f(apps)
		}
		return nil
	}, func(error) {})
}
