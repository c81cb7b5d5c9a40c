package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// check is one thing that must hold of every image. It returns what is wrong,
// one sentence each.
type check struct {
	name string
	run  func(tree string) ([]string, error)
}

var checks = []check{
	{"no SSH host keys", absent("etc/ssh/ssh_host_*", "every machine must make its own")},
	{"machine-id empty", machineIDEmpty},
	{"no cloud-init instance data", absent("var/lib/cloud/{instance,instances/*,data/*,seed}", "it would be taken for the first boot of every machine")},
	{"no network of an instance", absent("etc/{netplan/50-cloud-init.yaml,systemd/network/10-cloud-init-*,network/interfaces.d/50-cloud-init*}", "it is of the machine that the image was built on")},
	{"no apt lists", absent("var/lib/apt/lists/*_*", "they are old when the image boots")},
	{"no package files", absent("var/cache/apt/archives/*.deb", "they only take room")},
	{"no core dumps", absent("{core,var/crash/*,var/lib/systemd/coredump/*}", "a core dump may hold secrets")},
	{"no shell history", absent("{root,home/*}/.*_history", "it is the builder's")},
	{"no etcd data", absent("var/lib/etcd/*/member", "every cluster starts from its own")},
	{"no joined node", absent("etc/plasmid/{node.json,pki/*}", "a node is configured when it is joined")},
	{"nothing world-writable outside of tmp", worldWritable},
	{"no secrets", secrets},
	{"services as intended", services},
	{"/var/log is small", logSize},
}

// Check returns an error that lists everything wrong with a tree.
func Check(tree string) error {
	var errs []error
	for _, c := range checks {
		problems, err := c.run(tree)
		if err != nil {
			return fmt.Errorf("check %q: %w", c.name, err)
		}
		for _, p := range problems {
			errs = append(errs, fmt.Errorf("check %q: %s", c.name, p))
		}
	}
	return errors.Join(errs...)
}

// absent makes a check that nothing matches the pattern, in which {a,b} means
// either one.
func absent(pattern, why string) func(string) ([]string, error) {
	return func(tree string) ([]string, error) {
		var problems []string
		for _, p := range alternatives(pattern) {
			matches, err := filepath.Glob(filepath.Join(tree, p))
			if err != nil {
				return nil, err
			}
			for _, m := range matches {
				problems = append(problems, fmt.Sprintf("%s is there: %s", strings.TrimPrefix(m, tree), why))
			}
		}
		return problems, nil
	}
}

// alternatives writes out the first {a,b} of a pattern.
func alternatives(pattern string) []string {
	before, rest, ok := strings.Cut(pattern, "{")
	if !ok {
		return []string{pattern}
	}
	inside, after, _ := strings.Cut(rest, "}")
	var out []string
	for _, alt := range strings.Split(inside, ",") {
		out = append(out, before+alt+after)
	}
	return out
}

func machineIDEmpty(tree string) ([]string, error) {
	id, err := os.ReadFile(filepath.Join(tree, "etc/machine-id"))
	if errors.Is(err, fs.ErrNotExist) {
		return []string{"/etc/machine-id is missing: without it systemd can't tell a first boot"}, nil
	}
	if s := strings.TrimSpace(string(id)); err == nil && s != "" && s != "uninitialized" {
		return []string{"/etc/machine-id is not empty: all machines would have the same"}, nil
	}
	return nil, err
}

func worldWritable(tree string) ([]string, error) {
	var problems []string
	tmp := []string{"/tmp", "/var/tmp", "/run/lock", "/dev"}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, tree)
		if slices.Contains(tmp, rel) {
			return fs.SkipDir
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o002 != 0 {
			problems = append(problems, fmt.Sprintf("%s has mode %v: anyone can change it", rel, info.Mode()))
		}
		return nil
	})
	return problems, err
}

// secretPattern finds private keys. Programs and certificates' public halves
// are not looked at.
var secretPattern = regexp.MustCompile(`-----BEGIN ([A-Z]+ )?PRIVATE KEY-----\n[A-Za-z0-9+/=]{16}`)

// secretDirs are where a secret would lie; the rest comes from packages.
var secretDirs = []string{"etc", "root", "home", "var/lib/plasmid", "srv", "opt"}

func secrets(tree string) ([]string, error) {
	var problems []string
	for _, dir := range secretDirs {
		err := filepath.WalkDir(filepath.Join(tree, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil || info.Size() > 1<<20 {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rel := strings.TrimPrefix(path, tree)
			if secretPattern.Match(data) {
				problems = append(problems, rel+" holds a private key: every machine would share it")
			}
			if rel == "/etc/shadow" {
				problems = append(problems, passwords(data)...)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return problems, nil
}

// passwords finds the accounts in a shadow file that have one.
func passwords(shadow []byte) []string {
	var problems []string
	for line := range bytes.Lines(shadow) {
		fields := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(fields) < 2 {
			continue
		}
		if p := fields[1]; p == "" {
			problems = append(problems, fmt.Sprintf("/etc/shadow: %s can log in without a password", fields[0]))
		} else if p[0] != '!' && p[0] != '*' {
			problems = append(problems, fmt.Sprintf("/etc/shadow: %s has a password", fields[0]))
		}
	}
	return problems
}

// wanted services, and those that must stay off until a node is joined.
var (
	wantEnabled  = []string{"ssh.service", "docker.service", "systemd-networkd.service", "plasmidd.service", "plasmid-facts.service"}
	wantDisabled = []string{"etcd.service"}
)

func services(tree string) ([]string, error) {
	var problems []string
	for _, name := range wantEnabled {
		if ok, err := enabled(tree, name); err != nil {
			return nil, err
		} else if !ok {
			problems = append(problems, name+" is not enabled")
		}
	}
	for _, name := range wantDisabled {
		if ok, err := enabled(tree, name); err != nil {
			return nil, err
		} else if ok {
			problems = append(problems, name+" is enabled: it may not start before the node is joined")
		}
	}
	return problems, nil
}

// enabled reports whether a target wants the unit.
func enabled(tree, name string) (bool, error) {
	matches, err := filepath.Glob(filepath.Join(tree, "etc/systemd/system/*.wants", name))
	return len(matches) > 0, err
}

// maxLog is the most that /var/log may hold, in bytes.
const maxLog = 10 << 20

func logSize(tree string) ([]string, error) {
	size, err := diskUsage(filepath.Join(tree, "var/log"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if size > maxLog {
		return []string{fmt.Sprintf("it has %d MiB, more than %d", size>>20, maxLog>>20)}, err
	}
	return nil, err
}

// diskUsage adds up the blocks of all files below dir, in bytes, each hard
// link once.
func diskUsage(dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if key := (inode{st.Dev, st.Ino}); !seen[key] {
				seen[key] = true
				total += st.Blocks * 512
			}
		}
		return nil
	})
	return total, err
}
