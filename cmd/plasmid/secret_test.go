package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"plasmid/runtime/store"
)

// A secret is read byte by byte, and never taken from the arguments.
func TestSecretValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("in the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ stdin, file, want, err string }{
		{stdin: "a\x00b\n", want: "a\x00b\n"},
		{stdin: "ignored", file: file, want: "in the file\n"},
		{file: file + ".missing", err: "no such file"},
		{err: "is empty"},
		{stdin: strings.Repeat("x", store.MaxSecret+10), err: "longer than 256 KiB"},
	} {
		cmd := newSecretSetCommand(&globals{})
		cmd.SetIn(strings.NewReader(c.stdin))
		got, err := secretValue(cmd, c.file, "x")
		if string(got) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.20q %q: %.20q %v, want %q %s", c.stdin, c.file, got, err, c.want, c.err)
		}
	}
	cmd := newSecretCommand(&globals{})
	cmd.SetArgs([]string{"set", "shop", "password", "hunter2"})
	cmd.SetOut(new(bytes.Buffer))
	cmd.SetErr(new(bytes.Buffer))
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "accepts 2 arg") {
		t.Errorf("a value among the arguments: %v", err)
	}
}
