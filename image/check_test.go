package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// soundTree is the least that passes all checks.
func soundTree(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	write(t, tree, "etc/machine-id", "")
	write(t, tree, "etc/shadow", "root:*:20000::::::\ncore:!:20000::::::\n")
	for _, name := range wantEnabled {
		write(t, tree, "etc/systemd/system/multi-user.target.wants/"+name, "")
	}
	return tree
}

func write(t *testing.T, tree, name, text string) {
	t.Helper()
	path := filepath.Join(tree, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestChecks(t *testing.T) {
	if err := Check(soundTree(t)); err != nil {
		t.Fatalf("the sound tree: %v", err)
	}
	key := "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5v\n"
	for _, c := range []struct {
		name  string
		spoil func(tree string)
		says  []string // all of it
	}{
		{"host key", func(tree string) { write(t, tree, "etc/ssh/ssh_host_ed25519_key", "x") }, []string{"no SSH host keys", "/etc/ssh/ssh_host_ed25519_key"}},
		{"machine-id", func(tree string) { write(t, tree, "etc/machine-id", strings.Repeat("a", 32)+"\n") }, []string{"machine-id", "not empty"}},
		{"no machine-id", func(tree string) { os.Remove(filepath.Join(tree, "etc/machine-id")) }, []string{"machine-id", "missing"}},
		{"cloud-init instance", func(tree string) { write(t, tree, "var/lib/cloud/instances/i-1/obj.pkl", "x") }, []string{"cloud-init", "/var/lib/cloud/instances/i-1"}},
		{"network", func(tree string) { write(t, tree, "etc/systemd/network/10-cloud-init-eth0.network", "x") }, []string{"no network of an instance", "/etc/systemd/network/10-cloud-init-eth0.network"}},
		{"apt lists", func(tree string) { write(t, tree, "var/lib/apt/lists/deb_main_Packages", "x") }, []string{"no apt lists"}},
		{"package file", func(tree string) { write(t, tree, "var/cache/apt/archives/x.deb", "x") }, []string{"no package files"}},
		{"core dump", func(tree string) { write(t, tree, "var/lib/systemd/coredump/core.x.zst", "x") }, []string{"no core dumps"}},
		{"history", func(tree string) { write(t, tree, "root/.bash_history", "x") }, []string{"no shell history"}},
		{"etcd data", func(tree string) { write(t, tree, "var/lib/etcd/default/member/wal", "x") }, []string{"no etcd data"}},
		{"joined", func(tree string) { write(t, tree, "etc/plasmid/node.json", "{}") }, []string{"no joined node"}},
		{"world-writable file", func(tree string) {
			write(t, tree, "etc/open", "x")
			os.Chmod(filepath.Join(tree, "etc/open"), 0o666)
		}, []string{"world-writable", "/etc/open"}},
		{"world-writable directory", func(tree string) {
			write(t, tree, "srv/x/y", "")
			os.Chmod(filepath.Join(tree, "srv/x"), 0o777)
		}, []string{"/srv/x has mode"}},
		{"private key", func(tree string) { write(t, tree, "home/core/id", key) }, []string{"no secrets", "/home/core/id holds a private key"}},
		{"no password needed", func(tree string) { write(t, tree, "etc/shadow", "core::20000::::::\n") }, []string{"core can log in without a password"}},
		{"password", func(tree string) { write(t, tree, "etc/shadow", "core:$y$abc:20000::::::\n") }, []string{"core has a password"}},
		{"service not enabled", func(tree string) {
			os.Remove(filepath.Join(tree, "etc/systemd/system/multi-user.target.wants/docker.service"))
		}, []string{"docker.service is not enabled"}},
		{"etcd enabled", func(tree string) { write(t, tree, "etc/systemd/system/multi-user.target.wants/etcd.service", "") }, []string{"etcd.service is enabled"}},
		{"large log", func(tree string) { write(t, tree, "var/log/big", strings.Repeat("x", maxLog+1)) }, []string{"/var/log is small"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := soundTree(t)
			c.spoil(tree)
			err := Check(tree)
			if err == nil {
				t.Fatal("the tree passed")
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("the error does not say %q: %v", s, err)
				}
			}
			if n := strings.Count(err.Error(), "check \""); n != 1 {
				t.Errorf("%d checks failed, expected one: %v", n, err)
			}
		})
	}
}

// What may be writable by all: directories for temporary files, as they are.
func TestChecksAllowTmp(t *testing.T) {
	tree := soundTree(t)
	write(t, tree, "tmp/x", "")
	if err := os.Chmod(filepath.Join(tree, "tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := Check(tree); err != nil {
		t.Error(err)
	}
}
