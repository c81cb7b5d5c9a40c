package appaccess

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/store"
	"plasmid/runtime/store/etcdtest"
)

type fixture struct {
	*Writer
	t      *testing.T
	store  *store.Store
	client *clientv3.Client
	log    *strings.Builder
}

func newFixture(t *testing.T) *fixture {
	s := etcdtest.Start(t)
	st, err := store.Open(t.Context(), store.Config{Endpoints: []string{s.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	if _, err := st.Init(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	log := &strings.Builder{}
	return &fixture{
		Writer: &Writer{Store: st, Dir: filepath.Join(t.TempDir(), "apps"), Endpoints: []string{"https://e:2379"}, Logger: slog.New(slog.NewTextHandler(log, nil))},
		t:      t, store: st, client: s.Client(), log: log,
	}
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) set(app, name, value string, uid int) {
	f.t.Helper()
	_, err := f.store.PutSecret(f.t.Context(), app, name, store.Secret{Value: []byte(value), UID: uid})
	f.must(err)
}

// until waits for a file to hold a text; empty: to be gone.
func (f *fixture) until(name, want string) {
	f.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		data, err := os.ReadFile(filepath.Join(f.Dir, name))
		if string(data) == want && (err == nil) == (want != "") {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%s holds %q, want %q", name, data, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestFiles(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	if err := f.Ensure(ctx, "shop"); err == nil || !strings.Contains(err.Error(), "access of app shop") {
		t.Errorf("an app without access: %v", err)
	}
	f.set("shop", "password", "hunter2", 0)
	f.set("shop", "key", "k", 33)
	f.set("other", "password", "not the shop's", 0)
	f.must(f.store.PutAppAccess(ctx, "shop", store.AppAccess{CA: "ca", Cert: "cert", Key: "key"}))
	f.must(f.store.PutAppAccess(ctx, "other", store.AppAccess{CA: "ca", Cert: "cert2", Key: "key2"}))
	f.must(f.Ensure(ctx, "shop"))
	f.until("shop/client.crt", "cert")
	f.until("shop/env", "ETCD_ENDPOINTS=https://e:2379\n")
	f.until("shop/secrets/password", "hunter2")
	if _, err := os.Stat(filepath.Join(f.Dir, "other")); err == nil {
		t.Error("files of an app that is not on this machine")
	}
	for name, want := range map[string]string{
		"": "40700 0", "shop": "40755 0", "shop/secrets": "40711 0", "shop/client.key": "100600 0",
		"shop/secrets/password": "100400 0", "shop/secrets/key": "100400 33",
	} {
		var st syscall.Stat_t
		f.must(syscall.Stat(filepath.Join(f.Dir, name), &st))
		if got := fmt.Sprintf("%o %d", st.Mode, st.Uid); got != want {
			t.Errorf("%s: mode and owner %s, want %s", name, got, want)
		}
	}

	// Changes come by themselves, a renewed certificate among them.
	begun := time.Now()
	f.set("shop", "password", "changed", 0)
	f.until("shop/secrets/password", "changed")
	t.Logf("a changed secret was in place after %v", time.Since(begun))
	f.must(f.store.PutAppAccess(ctx, "shop", store.AppAccess{CA: "ca", Cert: "renewed", Key: "key3"}))
	f.until("shop/client.crt", "renewed")
	f.until("shop/client.key", "key3")
	if _, err := f.store.DeleteSecret(ctx, "shop", "password"); err != nil {
		t.Fatal(err)
	}
	f.until("shop/secrets/password", "")

	// A store that was wiped says nothing of apps; one that has the cluster
	// and not the app does.
	if _, err := f.client.Delete(ctx, "/plasmid/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	f.must(f.Ensure(ctx, "shop"))
	f.until("shop/client.crt", "renewed")
	if _, err := f.store.Init(ctx, "test"); err != nil {
		t.Fatal(err)
	}
	f.must(f.store.DeleteApp(ctx, "shop"))
	// Deployed anew at once: the app's units ask for its files as they start, and
	// the deletion, whenever it is heard of, takes nothing of the new ones.
	f.must(f.store.PutAppAccess(ctx, "shop", store.AppAccess{Cert: "again"}))
	f.must(f.Ensure(ctx, "shop"))
	f.until("shop/client.crt", "again")
	f.must(f.store.DeleteApp(ctx, "shop"))
	f.until("shop/client.crt", "")
	cancel()
	<-done
	if strings.Contains(f.log.String(), "hunter2") {
		t.Errorf("a secret is in the log:\n%s", f.log)
	}
}

func TestRefusedSecrets(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ app, name, value, want string }{
		{"Shop", "a", "x", "app's name"},
		{"shop/other", "a", "x", "app's name"},
		{"shop", "../a", "x", "secret's name"},
		{"shop", ".new-1", "x", "secret's name"},
		{"shop", "", "x", "secret's name"},
		{"shop", "a", strings.Repeat("x", store.MaxSecret+1), "longer than"},
	} {
		_, err := f.store.PutSecret(t.Context(), c.app, c.name, store.Secret{Value: []byte(c.value)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s/%s: %v, want %s", c.app, c.name, err, c.want)
		}
	}
	if _, err := f.store.DeleteSecret(t.Context(), "shop", "a"); err == nil || !strings.Contains(err.Error(), "no secret a") {
		t.Errorf("removing what is not there: %v", err)
	}
	f.set("shop", "a", "x", 0)
	if rev, err := f.store.PutSecret(t.Context(), "shop", "a", store.Secret{Value: []byte("x"), Changed: time.Now()}); rev != 0 || err != nil {
		t.Errorf("the same again: revision %d, %v", rev, err)
	}
	list, err := f.store.Secrets(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].Name != "a" || list[0].App != "shop" || list[0].Bytes != 1 {
		t.Errorf("list: %v %v", list, err)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", store.Secret{Value: []byte("hidden")}, store.Secret{Value: []byte("hidden")}, store.Secret{Value: []byte("hidden")}, store.Secret{Value: []byte("hidden")}); strings.Contains(s, "hidden") {
		t.Errorf("a secret prints as %s", s)
	}
}
