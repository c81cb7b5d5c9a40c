package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"plasmid/provision/join"
)

// run is the command line in this process, with nobody to ask.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newRootCommand()
	cmd.SetArgs(append([]string{"--file", filepath.Join(t.TempDir(), "none.hcl")}, args...))
	cmd.SetIn(strings.NewReader(""))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.Execute()
	return out.String(), err
}

// One workstation exports, another imports and has the same keys.
func TestAccessGoesElsewhere(t *testing.T) {
	dir := t.TempDir()
	here, there := filepath.Join(dir, "here"), filepath.Join(dir, "there")
	file, phrase, short := filepath.Join(dir, "demo.age"), filepath.Join(dir, "phrase"), filepath.Join(dir, "short")
	for name, text := range map[string]string{phrase: "correct horse battery\n", short: "secret\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := join.CreateAccess(filepath.Join(here, "clusters", "demo", "access"), "demo")
	if err != nil {
		t.Fatal(err)
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if out, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q; %s", args, err, want, out)
		}
	}

	t.Setenv("PLASMID_STATE", here)
	refused("nobody can be asked for the passphrase", "access", "export", file)
	refused("fewer than 12 characters", "access", "export", file, "--passphrase-file", short)
	if _, err := os.Lstat(file); err == nil {
		t.Fatal("a refused export has left a file")
	}
	if out, err := run(t, "access", "export", file, "--passphrase-file", phrase); err != nil || !strings.Contains(out, `cluster "demo"`) {
		t.Fatal(out, err)
	}
	if i, err := os.Stat(file); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	refused("is there already", "access", "export", file, "--passphrase-file", phrase)

	t.Setenv("PLASMID_STATE", there)
	refused("no cluster", "access", "export", file+"2", "--passphrase-file", phrase)
	refused("the passphrase is not the one", "access", "import", file, "--passphrase-file", short)
	if out, err := run(t, "access", "import", file, "--passphrase-file", phrase); err != nil || !strings.Contains(out, `cluster "demo" (0 machines)`) {
		t.Fatal(out, err)
	}
	b, err := join.LoadAccess(filepath.Join(there, "clusters", "demo", "access"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Token != b.Token || a.AuthorizedKey() != b.AuthorizedKey() || !bytes.Equal(a.CA(), b.CA()) {
		t.Error("the keys differ")
	}
	refused("--replace", "access", "import", file, "--passphrase-file", phrase)
	if out, err := run(t, "access", "import", file, "--passphrase-file", phrase, "--replace"); err != nil {
		t.Fatal(out, err)
	}
}
