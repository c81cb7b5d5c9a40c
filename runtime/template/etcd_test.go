package template

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"plasmid/runtime/store/etcdtest"
)

// live is a resource that follows a real etcd.
type live struct {
	*fixture
	server *etcdtest.Server
	client *clientv3.Client // of the test, not of what is tested
	store  *Etcd
	log    *lines
}

// lines are what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

func newLive(t *testing.T) *live {
	t.Parallel() // most of the time is spent waiting
	s := etcdtest.Start(t)
	l := &live{fixture: newFixture(t, `{{range gets "/a/*"}}{{base .Key}}={{.Value}} {{end}}`), server: s, client: s.Client(), log: &lines{}}
	l.Keys = []string{"/a"}
	l.Debounce = DefaultDebounce
	l.o.Logger = slog.New(slog.NewTextHandler(l.log, nil))
	l.store = &Etcd{Client: s.Client()}
	return l
}

func (l *live) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); Watch(ctx, l.store, []*Resource{l.Resource}, l.o) }()
	l.t.Cleanup(func() { cancel(); <-done })
}

func (l *live) put(key, value string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := l.client.Put(ctx, key, value); err != nil {
		l.t.Fatal(err)
	}
}

// until waits for the file to hold the text.
func (l *live) until(text string) {
	l.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for {
		got, _ := os.ReadFile(l.Dest)
		if string(got) == text {
			return
		}
		if time.Now().After(deadline) {
			l.log.mu.Lock()
			defer l.log.mu.Unlock()
			l.t.Fatalf("the file holds %q, want %q; log:\n%s", got, text, l.log.text.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestEtcdFollowsChangesAndDeletions(t *testing.T) {
	l := newLive(t)
	l.put("/a/1", "x")
	l.put("/ab", "not asked for")
	l.follow()
	l.until("1=x ")
	for i := range 20 {
		l.put("/a/1", fmt.Sprint(i))
	}
	l.until("1=19 ")
	if _, err := l.client.Delete(t.Context(), "/a/1"); err != nil {
		t.Fatal(err)
	}
	l.until("")
}

func TestEtcdReadsManyKeysAtOneRevision(t *testing.T) {
	l := newLive(t)
	keys := make([]string, 3*maxKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("/many/%d", i)
		l.put(keys[i], "x")
	}
	got, revision, err := l.store.Get(t.Context(), keys)
	if err != nil || len(got) != len(keys) || revision == 0 {
		t.Errorf("%d keys at %d, %v; want %d", len(got), revision, err, len(keys))
	}
}

// What is changed while etcd is away to confd, or just after, is not missed.
func TestEtcdRestarts(t *testing.T) {
	l := newLive(t)
	l.put("/a/1", "before")
	l.follow()
	l.until("1=before ")
	for i := range 3 {
		l.server.Kill()
		l.server.Run()
		l.put("/a/1", fmt.Sprint(i))
		l.until(fmt.Sprintf("1=%d ", i))
	}
}

func TestEtcdIsAwayAtFirst(t *testing.T) {
	l := newLive(t)
	l.put("/a/1", "x")
	l.server.Kill()
	l.follow()
	for l.log.count("trying again") == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	l.server.Run()
	l.until("1=x ")
}

// A watch from a revision that was compacted away meanwhile reads all again.
func TestEtcdCompaction(t *testing.T) {
	l := newLive(t)
	l.put("/a/1", "old")
	_, revision, err := l.store.Get(t.Context(), []string{"/a"})
	if err != nil {
		t.Fatal(err)
	}
	l.put("/a/1", "new")
	l.put("/other", "x")
	resp, err := l.client.Get(t.Context(), "/other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Compact(t.Context(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.store.Watch(ctx, []string{"/a"}, revision); err != nil {
		t.Errorf("watch from a compacted revision: %v", err)
	}
	l.follow()
	l.until("1=new ")
}

// etcd is stopped for longer than connections are kept, and changed by the
// time that confd hears of it.
func TestEtcdConnectionLost(t *testing.T) {
	l := newLive(t)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{l.server.Endpoint}, DialTimeout: time.Second,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	l.store.Client = client
	l.put("/a/1", "before")
	l.follow()
	l.until("1=before ")
	l.server.Signal(syscall.SIGSTOP)
	time.Sleep(13 * time.Second)
	l.server.Signal(syscall.SIGCONT)
	l.put("/a/1", "after")
	l.until("1=after ")
}

// An etcd that was made anew begins its revisions again: a watch from one of
// before would wait for ever.
func TestEtcdMadeAnew(t *testing.T) {
	l := newLive(t)
	for range 20 {
		l.put("/a/1", "before")
	}
	l.follow()
	l.until("1=before ")
	l.server.Kill()
	l.server.Wipe()
	l.server.Run()
	l.put("/a/1", "anew")
	l.until("1=anew ")
}

func TestEtcdAuthFails(t *testing.T) {
	l := newLive(t)
	l.put("/a/1", "x")
	ctx := t.Context()
	for _, f := range []func() error{
		func() error { _, err := l.client.RoleAdd(ctx, "root"); return err },
		func() error { _, err := l.client.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := l.client.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := l.client.UserAdd(ctx, "app", "appsecret"); return err },
		func() error { _, err := l.client.RoleAdd(ctx, "app"); return err },
		func() error { _, err := l.client.UserGrantRole(ctx, "app", "app"); return err },
		func() error { _, err := l.client.AuthEnable(ctx); return err },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	as := func(user, password string) *clientv3.Client {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{l.server.Endpoint}, Username: user, Password: password, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	root := as("root", "secret")
	l.store.Client = as("app", "appsecret")
	err := Once(ctx, l.store, []*Resource{l.Resource}, l.o)
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("without the right to read: %v", err)
	}
	l.follow()
	for l.log.count("permission denied") == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.Stat(filepath.Dir(l.Dest)); err == nil {
		t.Error("something was written")
	}
	// The right is given later: what is tried again then works.
	for _, key := range []string{"/a", "/a/"} {
		end := ""
		if key == "/a/" {
			end = clientv3.GetPrefixRangeEnd(key)
		}
		if _, err := root.RoleGrantPermission(ctx, "app", key, end, clientv3.PermissionType(clientv3.PermRead)); err != nil {
			t.Fatal(err)
		}
	}
	l.until("1=x ")
	if n := l.log.count("trying again"); n > 8 {
		t.Errorf("it was tried %d times: without pauses?", n)
	}
}
