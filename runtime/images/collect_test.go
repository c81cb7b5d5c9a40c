package images

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What no text names goes, once it was long enough not asked for.
func TestCollect(t *testing.T) {
	used, old, fresh := newImage("used"), newImage("old"), newImage("fresh")
	s := newStore(t, used.blobs, old.blobs, fresh.blobs)
	long := time.Now().Add(-2 * unwanted)
	age := func(i testImage) {
		for d := range i.blobs {
			if err := os.Chtimes(s.path(d), long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	age(used)
	age(old)
	has := func(i testImage) (n int) {
		for d := range i.blobs {
			if s.Has(d) {
				n++
			}
		}
		return n
	}
	texts := []string{"[X-Plasmid]\nImages=127.0.0.1:1/used@" + string(used.digest()) + "\n", "[Service]\nExecStart=/bin/true\n"}
	// A push that is under way asks whether blobs are there, or brings them.
	for d, data := range old.blobs {
		if d == old.digest() {
			if err := s.Put(d, strings.NewReader(data)); err != nil {
				t.Fatal(err)
			}
		} else if f, err := s.Get(d); err == nil {
			f.Close()
		}
	}
	if n, _, err := s.collect(texts, time.Now().Add(-unwanted)); err != nil || n != 0 || has(used)+has(old)+has(fresh) != 12 {
		t.Errorf("%d blobs were removed that are in use or were just asked for: %v", n, err)
	}
	age(old)
	if n, bytes, err := s.collect(texts, time.Now().Add(-unwanted)); err != nil || n != 4 || bytes == 0 || has(old) != 0 || has(used)+has(fresh) != 8 {
		t.Errorf("%d blobs of %d bytes were removed: %v; %d of the old are left", n, bytes, err, has(old))
	}
	// A manifest that can't be read may name anything: all stays.
	if err := os.WriteFile(s.path(used.digest()), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	age(fresh)
	if n, _, err := s.collect(texts, time.Now().Add(-unwanted)); err == nil || n != 0 || has(fresh) != 4 {
		t.Errorf("with a damaged manifest %d blobs were removed: %v", n, err)
	}
}

// dockerImages are references; those that a container has are kept.
type dockerImages struct {
	mu          sync.Mutex
	refs, inUse []string
	err         error
}

// become changes what Docker has and says. The bubble's clock runs one goroutine
// at a time here, but orders no memory between them.
func (d *dockerImages) become(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *dockerImages) Images(_ context.Context, registry string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, r := range d.refs {
		if strings.HasPrefix(r, registry+"/") {
			out = append(out, r)
		}
	}
	return out, nil
}

func (d *dockerImages) RemoveImage(_ context.Context, ref string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil || slices.Contains(d.inUse, ref) {
		return false, d.err
	}
	d.refs = slices.DeleteFunc(d.refs, func(r string) bool { return r == ref })
	return true, nil
}

// Docker's images of this registry go after their blobs have, and no others.
func TestCollectDocker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named, kept, old, busy := newImage("named"), newImage("kept"), newImage("old"), newImage("busy")
		s := newStore(t, kept.blobs)
		ref := func(i testImage) string { return "127.0.0.1:1/app@" + string(i.digest()) }
		foreign := "docker.io/library/app@" + string(old.digest())
		d := &dockerImages{refs: []string{ref(named), ref(kept), ref(old), ref(busy), foreign}, inUse: []string{ref(busy)}}
		var known atomic.Bool
		c := &Collector{Store: s, Docker: d, Registry: "127.0.0.1:1", Logger: slog.New(slog.DiscardHandler),
			Texts: func() ([]string, bool) { return []string{"Images=" + ref(named)}, known.Load() }}
		// The files are of this year, and so young in the bubble's time.
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.Run(ctx)
		has := func(want ...string) {
			t.Helper()
			time.Sleep(collectEvery + time.Second)
			d.become(func() {
				if !slices.Equal(d.refs, want) {
					t.Errorf("Docker has %q, want %q", d.refs, want)
				}
			})
		}
		has(ref(named), ref(kept), ref(old), ref(busy), foreign) // the store is away
		known.Store(true)
		d.become(func() { d.err = errors.New("Docker is away") })
		has(ref(named), ref(kept), ref(old), ref(busy), foreign)
		d.become(func() { d.err = nil })
		has(ref(named), ref(kept), ref(busy), foreign)
		d.become(func() { d.inUse = nil })
		has(ref(named), ref(kept), foreign)
	})
}
