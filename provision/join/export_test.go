package join

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

const phrase = "correct horse battery"

func exported(t *testing.T, a *Access) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := a.Export(&b, "t", phrase); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sealed encrypts what Export would never write.
func sealed(t *testing.T, e export) []byte {
	t.Helper()
	to, err := age.NewScryptRecipient(phrase)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(10)
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(json.NewEncoder(w).Encode(e), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestExportCarriesAll(t *testing.T) {
	a := testAccess(t)
	if err := a.saveMembers(map[string]Member{"t-core-1": {Name: "t-core-1", Address: "10.0.0.11", Etcd: true, Joined: true}}); err != nil {
		t.Fatal(err)
	}
	if err := a.keepGates("t-core-1", &gate{Name: "t-core-1", Address: "192.0.2.1:22", HostKey: "ssh-ed25519 AAAA"}); err != nil {
		t.Fatal(err)
	}
	if err := a.write("known_hosts", []byte("10.0.0.11 ssh-ed25519 AAAA\n")); err != nil {
		t.Fatal(err)
	}
	file := exported(t, a)
	for _, name := range accessFiles {
		data, err := os.ReadFile(a.file(name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(file, data) || bytes.Contains(file, []byte(strings.TrimSpace(string(data)))) {
			t.Errorf("%s can be read in the export", name)
		}
	}

	e, err := ReadExport(bytes.NewReader(file), phrase)
	if err != nil {
		t.Fatal(err)
	}
	if e.Cluster() != "t" {
		t.Errorf("cluster %q", e.Cluster())
	}
	dir := filepath.Join(t.TempDir(), "clusters", "t", "access")
	b, err := e.Save(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(accessFiles) {
		t.Errorf("%d files of %d", len(files), len(accessFiles))
	}
	for _, f := range files {
		was, err := os.ReadFile(a.file(f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		is, err := os.ReadFile(b.file(f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(was, is) {
			t.Errorf("%s differs", f.Name())
		}
		if i, err := f.Info(); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f.Name(), i.Mode(), err)
		}
	}
	if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); left != nil {
		t.Errorf("left: %v", left)
	}

	if _, err := e.Save(dir, false); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second import: %v", err)
	}
	if _, err := e.Save(dir, true); err != nil {
		t.Errorf("a second import that may: %v", err)
	}
	if files, _ := os.ReadDir(dir); len(files) != len(accessFiles) {
		t.Errorf("after the second import: %v", files)
	}
}

// A cluster without machines yet has access, too.
func TestExportBeforeMachines(t *testing.T) {
	e, err := ReadExport(bytes.NewReader(exported(t, testAccess(t))), phrase)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Save(filepath.Join(t.TempDir(), "access"), false); err != nil {
		t.Fatal(err)
	}
}

func TestReadExportRefuses(t *testing.T) {
	file := exported(t, testAccess(t))
	if _, err := ReadExport(bytes.NewReader(file), "another one"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	e, err := ReadExport(bytes.NewReader(file), phrase)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*export)) []byte {
		c := e.export
		c.Files = map[string][]byte{}
		for k, v := range e.Files {
			c.Files[k] = v
		}
		change(&c)
		return sealed(t, c)
	}
	flipped := bytes.Clone(file)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"cut off", "cut off", file[:len(file)-5]},
		{"changed", "damaged", flipped},
		{"text", "not what plasmid access export writes", []byte("cluster \"t\" {}\n")},
		{"version", "version 2", with(func(e *export) { e.Version = 2 })},
		{"escape", "can't be", with(func(e *export) { e.Cluster = "../x" })},
		{"hidden", "can't be", with(func(e *export) { e.Cluster = ".x" })},
		{"stranger", "which access has none of", with(func(e *export) { e.Files["../../x"] = []byte("x") })},
		{"no key", "lacks ca.key", with(func(e *export) { delete(e.Files, "ca.key") })},
	} {
		if _, err := ReadExport(bytes.NewReader(c.data), phrase); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}

	bad, err := ReadExport(bytes.NewReader(with(func(e *export) { e.Files["ca.key"] = []byte("nonsense") })), phrase)
	if err != nil {
		t.Fatal(err)
	}
	a := testAccess(t)
	if _, err := bad.Save(a.Dir, true); err == nil {
		t.Error("keys that are none were taken")
	}
	if _, err := LoadAccess(a.Dir); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
}
