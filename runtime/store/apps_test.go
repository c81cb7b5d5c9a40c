package store

import (
	"maps"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A deployment sets what changed in app.hcl and leaves alone what the app
// changed itself.
func TestAppKeys(t *testing.T) {
	s, server := newStore(t)
	ctx, etcd := t.Context(), server.Client()
	set := func(keys map[string]string) {
		t.Helper()
		if err := s.SetAppKeys(ctx, "elk", keys); err != nil {
			t.Fatal(err)
		}
		if got, err := s.AppKeys(ctx, "elk"); err != nil || !maps.Equal(got, keys) {
			t.Fatalf("set are %v, %v; want %v", got, err, keys)
		}
	}
	want := func(keys map[string]string) {
		t.Helper()
		resp, err := etcd.Get(ctx, "/apps/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, kv := range resp.Kvs {
			got[strings.TrimPrefix(string(kv.Key), "/apps/elk")] = string(kv.Value)
		}
		if !maps.Equal(got, keys) {
			t.Errorf("there are %v, want %v", got, keys)
		}
	}
	if got, err := s.AppKeys(ctx, "elk"); err != nil || len(got) != 0 {
		t.Fatalf("at first: %v %v", got, err)
	}
	set(map[string]string{"/config/a": "1", "/config/b": "2"})
	want(map[string]string{"/config/a": "1", "/config/b": "2"})
	for k, v := range map[string]string{"/apps/elk/config/a": "9", "/apps/elk/own": "x"} {
		if _, err := etcd.Put(ctx, k, v); err != nil {
			t.Fatal(err)
		}
	}
	set(map[string]string{"/config/a": "1", "/config/b": "3"})
	want(map[string]string{"/config/a": "9", "/config/b": "3", "/own": "x"})
	before, err := etcd.Get(ctx, "/")
	if err != nil {
		t.Fatal(err)
	}
	set(map[string]string{"/config/a": "1", "/config/b": "3"})
	after, err := etcd.Get(ctx, "/")
	if err != nil || before.Header.Revision != after.Header.Revision {
		t.Errorf("setting the same writes (revision %d to %d, %v)", before.Header.Revision, after.Header.Revision, err)
	}
	set(map[string]string{"/config/a": "2"})
	want(map[string]string{"/config/a": "2", "/own": "x"})
	if err := s.DeleteApp(ctx, "elk"); err != nil {
		t.Fatal(err)
	}
	want(nil)
}
