package images

import (
	"os"
	"strings"
	"testing"
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
