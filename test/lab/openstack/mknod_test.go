package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A container's definition gets the right once, and the controller its arguments.
func TestMknodScript(t *testing.T) {
	dir := t.TempDir()
	definition := filepath.Join(dir, "instance-1.xml")
	script := strings.NewReplacer("/run/libvirt/lxc", dir, controller+".real", "/bin/echo").Replace(mknodScript)
	if err := os.WriteFile(definition, []byte("<domstatus>\n  <domain type='lxc'>\n    <devices>\n      <x/>\n    </devices>\n  </domain>\n</domstatus>\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", script, "libvirt_lxc", "--name", "instance-1", "--console", "27").CombinedOutput()
	if err != nil || string(out) != "--name instance-1 --console 27\n" {
		t.Errorf("%v: %s", err, out)
	}
	text, err := os.ReadFile(definition)
	if err != nil {
		t.Fatal(err)
	}
	want := "<domain type='lxc'>\n    <features><capabilities policy='default'><mknod state='on'/></capabilities></features><devices>\n      <x/>"
	if !strings.Contains(string(text), want) {
		t.Errorf("%s", text)
	}
}
