package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func digest(data string) Digest {
	sum := sha256.Sum256([]byte(data))
	return digestOf(sum[:])
}

// testImage is an image of a config and two layers.
type testImage struct {
	manifest string
	blobs    map[Digest]string // with the manifest
}

func newImage(name string) testImage {
	i := testImage{blobs: map[Digest]string{}}
	add := func(data string) Digest {
		i.blobs[digest(data)] = data
		return digest(data)
	}
	i.manifest = fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":%q},"layers":[{"digest":%q},{"digest":%q}]}`,
		add("config of "+name), add("layer 1 of "+name), add("layer 2 of "+name))
	add(i.manifest)
	return i
}

func (i testImage) digest() Digest { return digest(i.manifest) }

// layout writes the image as an OCI layout.
func (i testImage) layout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	for d, data := range i.blobs {
		if err := os.WriteFile(layoutDir(dir).path(d), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newStore(t *testing.T, blobs ...map[Digest]string) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, all := range blobs {
		for d, data := range all {
			if err := s.Put(d, strings.NewReader(data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

func (s *Store) text(t *testing.T, d Digest) string {
	t.Helper()
	f, err := s.Get(d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// machine serves blobs as a machine's API does, and counts requests.
type machine struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
}

func serve(t *testing.T, h http.Handler) *machine {
	t.Helper()
	m := &machine{}
	m.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.requests = append(m.requests, r.Method)
		m.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *machine) endpoint() string { return m.Listener.Addr().String() }

func (m *machine) count(method string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, r := range m.requests {
		if r == method {
			n++
		}
	}
	return n
}

func broken() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "disk on fire", http.StatusInternalServerError)
	})
}

// client trusts all test servers: they have the same certificate.
func client(t *testing.T) *http.Client {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.Client()
}

func TestParseDigest(t *testing.T) {
	good := "sha256:" + strings.Repeat("0a", 32)
	if d, err := ParseDigest(good); err != nil || string(d) != good {
		t.Errorf("%q: %v", d, err)
	}
	for _, bad := range []string{"", "sha256:", good + "0", strings.ToUpper(good), "sha512:" + strings.Repeat("0a", 32), "sha256:../../../../etc/shadow", good + "\n"} {
		if _, err := ParseDigest(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestStore(t *testing.T) {
	s := newStore(t)
	d := digest("hello")
	if _, err := s.Get(d); !errors.Is(err, ErrNoBlob) || s.Has(d) {
		t.Errorf("a blob that is not there: %v", err)
	}
	if err := s.Put(d, strings.NewReader("hallo")); !errors.Is(err, ErrDamaged) || s.Has(d) {
		t.Errorf("a damaged blob: %v", err)
	}
	torn := io.MultiReader(strings.NewReader("hel"), brokenReader{})
	if err := s.Put(d, torn); err == nil || s.Has(d) {
		t.Errorf("a blob that broke off: %v", err)
	}
	if err := s.Put(d, strings.NewReader("hello")); err != nil || s.text(t, d) != "hello" {
		t.Errorf("a blob: %v", err)
	}
	if err := s.Put(d, brokenReader{}); err != nil {
		t.Errorf("a blob that is there is read again: %v", err)
	}
	files, err := os.ReadDir(filepath.Join(s.dir, "sha256"))
	if err != nil || len(files) != 1 {
		t.Errorf("%d files are in the store: %v", len(files), err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestOpenRemovesWhatWasCutOff(t *testing.T) {
	s := newStore(t, map[Digest]string{digest("whole"): "whole"})
	half := filepath.Join(s.dir, "sha256", ".new-123")
	if err := os.WriteFile(half, []byte("hal"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) || !again.Has(digest("whole")) {
		t.Errorf("half a blob: %v; a whole one: %v", err, again.Has(digest("whole")))
	}
}

func TestRegistry(t *testing.T) {
	i := newImage("app")
	srv := httptest.NewServer(newStore(t, i.blobs).Registry())
	defer srv.Close()
	layer := digest("layer 1 of app")
	for _, test := range []struct {
		path, contentType, body string
		status                  int
	}{
		{"/v2/", "", "", 200},
		{"/v2/hello/sinatra/manifests/" + string(i.digest()), ociManifest, i.manifest, 200},
		{"/v2/hello/sinatra/blobs/" + string(layer), "application/octet-stream", "layer 1 of app", 200},
		{"/v2/hello/sinatra/manifests/latest", "", "", 404},
		{"/v2/hello/sinatra/blobs/" + string(digest("other")), "", "", 404},
		{"/v2/blobs/" + string(layer), "", "", 404}, // no name
		{"/v2/x/uploads/" + string(layer), "", "", 404},
		{"/v2/_catalog", "", "", 404},
	} {
		resp, err := http.Get(srv.URL + test.path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.status {
			t.Errorf("%s: %d", test.path, resp.StatusCode)
		}
		if test.body != "" && (string(body) != test.body || resp.Header.Get("Content-Type") != test.contentType || resp.Header.Get("Docker-Content-Digest") != string(digest(test.body))) {
			t.Errorf("%s: %q %v", test.path, body, resp.Header)
		}
	}
	resp, err := http.Post(srv.URL+"/v2/hello/sinatra/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode < 400 {
		t.Errorf("an upload is answered %d", resp.StatusCode)
	}
}

// fakeDocker pulls from a fetcher's own store, as Docker would from the
// registry: it reads every blob and checks it.
type fakeDocker struct {
	store *Store
	mu    sync.Mutex
	has   map[string]bool
	pulls int
}

func (d *fakeDocker) HasImage(_ context.Context, ref string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.has[ref], nil
}

func (d *fakeDocker) Pull(_ context.Context, ref string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pulls++
	if _, of, ok := strings.Cut(ref, "@"); ok {
		blobs, err := d.store.named(Digest(of))
		if err != nil {
			return err
		}
		for _, b := range blobs {
			data, err := os.ReadFile(d.store.path(b))
			if err != nil || digest(string(data)) != b {
				return fmt.Errorf("filesystem layer verification failed for digest %s: %v", b, err)
			}
		}
	}
	if d.has == nil {
		d.has = map[string]bool{}
	}
	d.has[ref] = true
	return nil
}

const registry = "127.0.0.1:7481"

func newFetcher(t *testing.T, peers ...string) (*Fetcher, *fakeDocker) {
	t.Helper()
	s := newStore(t)
	d := &fakeDocker{store: s}
	return &Fetcher{Store: s, Docker: d, Peers: func() []string { return peers }, Client: client(t), Registry: registry}, d
}

func ref(i testImage) string { return registry + "/hello/app@" + string(i.digest()) }

func TestEnsure(t *testing.T) {
	i := newImage("app")
	whole := newStore(t, i.blobs)
	lying := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "something else") })
	away := httptest.NewTLSServer(nil)
	away.Close()

	for name, peers := range map[string][]string{
		"one peer":                {serve(t, whole.Blobs()).endpoint()},
		"the first is away":       {away.Listener.Addr().String(), serve(t, whole.Blobs()).endpoint()},
		"the first is broken":     {serve(t, broken()).endpoint(), serve(t, whole.Blobs()).endpoint()},
		"the first sends rubbish": {serve(t, lying).endpoint(), serve(t, whole.Blobs()).endpoint()},
		"the first lacks it":      {serve(t, newStore(t).Blobs()).endpoint(), serve(t, whole.Blobs()).endpoint()},
	} {
		t.Run(name, func(t *testing.T) {
			f, docker := newFetcher(t, peers...)
			if err := f.Ensure(t.Context(), ref(i)); err != nil {
				t.Fatal(err)
			}
			for d, data := range i.blobs {
				if f.Store.text(t, d) != data {
					t.Errorf("blob %s is another", d)
				}
			}
			if docker.pulls != 1 {
				t.Errorf("%d pulls", docker.pulls)
			}
			if err := f.Ensure(t.Context(), ref(i)); err != nil || docker.pulls != 1 {
				t.Errorf("again: %v, %d pulls", err, docker.pulls)
			}
		})
	}

	t.Run("nobody has it", func(t *testing.T) {
		f, _ := newFetcher(t, serve(t, newStore(t).Blobs()).endpoint(), away.Listener.Addr().String())
		if err := f.Ensure(t.Context(), ref(i)); err == nil || !strings.Contains(err.Error(), "none of 2 other machines; plasmid app deploy") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody is there", func(t *testing.T) {
		f, _ := newFetcher(t)
		if err := f.Ensure(t.Context(), ref(i)); err == nil || !strings.Contains(err.Error(), "no other machine reports") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an image of somewhere else is Docker's affair", func(t *testing.T) {
		f, docker := newFetcher(t)
		if err := f.Ensure(t.Context(), "debian:testing"); err != nil || docker.pulls != 1 {
			t.Errorf("%v, %d pulls", err, docker.pulls)
		}
	})
}

// What the disk spoiled is fetched again, and only that.
func TestEnsureMendsDamage(t *testing.T) {
	i := newImage("app")
	peer := serve(t, newStore(t, i.blobs).Blobs())
	f, docker := newFetcher(t, peer.endpoint())
	for d, data := range i.blobs {
		if err := f.Store.Put(d, strings.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(f.Store.path(digest("layer 2 of app")), []byte("layer 2 of aqq"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Ensure(t.Context(), ref(i)); err != nil {
		t.Fatal(err)
	}
	if f.Store.text(t, digest("layer 2 of app")) != "layer 2 of app" || docker.pulls != 2 || peer.count(http.MethodGet) != 1 {
		t.Errorf("%d pulls, %d fetches", docker.pulls, peer.count(http.MethodGet))
	}
}

// Units that wait for one image have it fetched once, and one that gives up
// does not stop the others.
func TestEnsureOnceForAll(t *testing.T) {
	i := newImage("app")
	store := newStore(t, i.blobs)
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	peer := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(asked) })
		<-release
		store.Blobs().ServeHTTP(w, r)
	}))
	f, docker := newFetcher(t, peer.endpoint())
	impatient, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() { gaveUp <- f.Ensure(impatient, ref(i)) }()
	<-asked
	results := make(chan error)
	for range 3 {
		go func() { results <- f.Ensure(t.Context(), ref(i)) }()
	}
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("who gives up gets %v", err)
	}
	close(release)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := peer.count(http.MethodGet); n != len(i.blobs) || docker.pulls != 1 {
		t.Errorf("%d blobs were fetched by %d requests, %d pulls", len(i.blobs), n, docker.pulls)
	}
}

func TestPush(t *testing.T) {
	i := newImage("app")
	layout := i.layout(t)
	push := func(ms ...*machine) error {
		var endpoints []string
		for _, m := range ms {
			endpoints = append(endpoints, m.endpoint())
		}
		return Push(t.Context(), client(t), endpoints, layout, string(i.digest()))
	}
	fresh := func() (*machine, *Store) {
		s := newStore(t)
		return serve(t, s.Blobs()), s
	}
	has := func(s *Store) bool {
		for d := range i.blobs {
			if !s.Has(d) {
				return false
			}
		}
		return true
	}

	t.Run("to as many as are needed", func(t *testing.T) {
		var ms []*machine
		var ss []*Store
		for range 5 {
			m, s := fresh()
			ms, ss = append(ms, m), append(ss, s)
		}
		if err := push(ms...); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, s := range ss {
			if has(s) {
				n++
			}
		}
		if n != Copies {
			t.Errorf("%d machines have it", n)
		}
		var all []string
		for _, m := range append(ms, serve(t, broken())) {
			all = append(all, m.endpoint())
		}
		if have, lack := Holders(t.Context(), client(t), all, string(i.digest())); !slices.Equal(have, all[:Copies]) || !slices.Equal(lack, all[Copies:5]) {
			t.Errorf("of %v\n%v have it, %v lack it", all, have, lack)
		}
		sent := ms[0].count(http.MethodPut)
		if err := push(ms...); err != nil || ms[0].count(http.MethodPut) != sent {
			t.Errorf("again: %v, %d blobs were sent", err, ms[0].count(http.MethodPut)-sent)
		}
	})
	t.Run("past a broken one", func(t *testing.T) {
		bad := serve(t, broken())
		a, as := fresh()
		b, bs := fresh()
		c, cs := fresh()
		if err := push(bad, a, b, c); err != nil || !has(as) || !has(bs) || !has(cs) {
			t.Errorf("%v; %v %v %v", err, has(as), has(bs), has(cs))
		}
	})
	t.Run("not to enough", func(t *testing.T) {
		bad := serve(t, broken())
		a, _ := fresh()
		err := push(bad, a)
		if err == nil || !strings.Contains(err.Error(), "reached 1 of the 2 machines") || !strings.Contains(err.Error(), "disk on fire") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("to nobody", func(t *testing.T) {
		if err := push(); err == nil {
			t.Error("it was pushed to nobody")
		}
	})
}

// The manifest comes last: until then nobody takes the image for whole.
func TestPushOrder(t *testing.T) {
	i := newImage("app")
	store := newStore(t)
	var puts []string
	m := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			puts = append(puts, strings.TrimPrefix(r.URL.Path, BlobPath))
		}
		store.Blobs().ServeHTTP(w, r)
	}))
	if err := Push(t.Context(), client(t), []string{m.endpoint()}, i.layout(t), string(i.digest())); err != nil {
		t.Fatal(err)
	}
	if len(puts) != len(i.blobs) || slices.Index(puts, string(i.digest())) != len(puts)-1 {
		t.Errorf("sent in the order %v", puts)
	}
}

func TestBlobsRefuseDamage(t *testing.T) {
	m := serve(t, newStore(t).Blobs())
	put := func(path, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, m.URL+BlobPath+path, bytes.NewBufferString(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := m.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if s := put(string(digest("a")), "b"); s != http.StatusBadRequest {
		t.Errorf("a damaged blob: %d", s)
	}
	if s := put("sha256:12", "b"); s != http.StatusBadRequest {
		t.Errorf("no digest: %d", s)
	}
	if s := put(string(digest("a")), "a"); s != http.StatusCreated {
		t.Errorf("a blob: %d", s)
	}
}
