package forwarder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func fileWith(t *testing.T, text string) *file {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &file{entry: &entry{}, f: f}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine+10)
	for _, c := range []struct {
		name, text string
		offset     int64
		want       []line
		next       int64
	}{
		{"nothing", "", 0, nil, 0},
		{"a line that is not written whole yet", "a\nb", 0, []line{{offset: 0, text: []byte("a")}}, 2},
		{"from the middle", "a\nb\n\r\nc\r\n", 2, []line{{offset: 2, text: []byte("b")}, {offset: 4}, {offset: 6, text: []byte("c")}}, 9},
		{"a long line", long + "\nb\n", 0, []line{{offset: 0, text: []byte(long[:maxLine]), cut: true}, {offset: int64(len(long)) + 1, text: []byte("b")}}, int64(len(long)) + 3},
		{"a line without end", strings.Repeat("x", maxRead+10), 0, []line{{offset: 0, text: []byte(long[:maxLine]), cut: true}}, maxRead},
		{"a full batch", strings.Repeat("\n", maxBatch+1), 0, make([]line, maxBatch), maxBatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := fileWith(t, c.text)
			f.Offset = c.offset
			got, next, err := f.lines()
			if err != nil || next != c.next || len(got) != len(c.want) {
				t.Fatalf("%d lines, the next at %d, %v; want %d and %d", len(got), next, err, len(c.want), c.next)
			}
			if c.name == "a full batch" {
				return
			}
			for i, w := range c.want {
				if g := got[i]; g.offset != w.offset || string(g.text) != string(w.text) || g.cut != w.cut {
					t.Errorf("line %d: at %d, %d bytes, cut %v; want at %d, %d bytes, cut %v", i, g.offset, len(g.text), g.cut, w.offset, len(w.text), w.cut)
				}
			}
		})
	}
}

// A file is known by what it is, not by its name.
func TestIdentity(t *testing.T) {
	f := fileWith(t, "first\nsecond\n")
	info, err := f.f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	e := newEntry(info, "here")
	if err := e.acked(f.f, 6); err != nil {
		t.Fatal(err)
	}
	is := func() bool {
		info, err := f.f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		same, err := e.is(f.f, info)
		if err != nil {
			t.Fatal(err)
		}
		return same
	}
	if !is() {
		t.Error("it is not known again")
	}
	if err := os.WriteFile(f.f.Name(), []byte("other\nsecond\nthird\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if is() {
		t.Error("another file by its inode is taken for it")
	}
	if err := os.WriteFile(f.f.Name(), []byte("fir"), 0o644); err != nil {
		t.Fatal(err)
	}
	if is() {
		t.Error("a cut file is taken for it")
	}
}

func TestRegistry(t *testing.T) {
	name := filepath.Join(t.TempDir(), "registry")
	if es, err := loadRegistry(name); err != nil || es != nil {
		t.Fatalf("at first: %v %v", es, err)
	}
	if err := saveRegistry(name, []*entry{{Source: "a", Offset: 5}}); err != nil {
		t.Fatal(err)
	}
	if es, err := loadRegistry(name); err != nil || len(es) != 1 || *es[0] != (entry{Source: "a", Offset: 5}) {
		t.Errorf("%v %v", es, err)
	}
	if err := os.WriteFile(name, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadRegistry(name); err == nil {
		t.Error("a spoiled registry is taken for none, so all would be sent again")
	}
}
