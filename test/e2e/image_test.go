//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plasmid/image"
)

// stateDir is where the command line keeps its things when nothing else is
// said.
const stateDir = "/var/lib/plasmid"

// builder is a state directory of its own, with the host's cache of packages.
type builder struct {
	*cluster
	state string
}

func newBuilder(t *testing.T, state, image string) *builder {
	t.Helper()
	if err := os.Symlink(filepath.Join(stateDir, "cache"), filepath.Join(state, "cache")); err != nil {
		t.Fatal(err)
	}
	b := &builder{&cluster{t: t, name: "images", dir: t.TempDir(), env: []string{"PLASMID_STATE=" + state}}, state}
	b.describe(image)
	nothingLeft(t, "")
	return b
}

// describe writes a cluster file with an image block.
func (b *builder) describe(image string) {
	b.t.Helper()
	text := fmt.Sprintf("cluster %q {\n  image {\n%s\n  }\n  nodes \"core\" { count = 1 }\n}\n", b.name, image)
	if err := os.WriteFile(b.file(), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *builder) playbook(name, tasks string) {
	b.t.Helper()
	text := "- hosts: all\n  become: true\n  gather_facts: false\n  tasks:\n" + tasks
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *builder) build() (*image.Image, error) {
	out, err := b.run("image", "build", "--tree-only", "-o", "json")
	if err != nil {
		return nil, err
	}
	img := new(image.Image)
	return img, json.Unmarshal([]byte(out), img)
}

// refused builds and wants an error that says all of that, and no trace of an
// image that was not there before.
func (b *builder) refused(says ...string) {
	b.t.Helper()
	before := b.files()
	_, err := b.build()
	if err == nil {
		b.t.Fatal("it was built")
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			b.t.Errorf("the error does not say %q:\n%v", s, err)
		}
	}
	if after := b.files(); !slices.Equal(before, after) {
		b.t.Errorf("the images directory had %v, has %v", before, after)
	}
}

func (b *builder) files() []string {
	b.t.Helper()
	var names []string
	for _, dir := range []string{"images", "cache/packages"} {
		entries, err := os.ReadDir(filepath.Join(b.state, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			b.t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != ".lock" {
				names = append(names, e.Name())
			}
		}
	}
	return names
}

func TestImageBuild(t *testing.T) {
	const copyMotd = "    - name: Greet\n      ansible.builtin.copy: {content: \"{{ greeting }}\\n\", dest: /etc/motd, mode: '0644'}\n"
	b := newBuilder(t, t.TempDir(), `playbooks = ["site.yml"]
		vars = { greeting = "well met" }`)
	b.playbook("site.yml", copyMotd)

	img, err := b.build()
	if err != nil {
		t.Fatal(err)
	}
	motd, err := os.ReadFile(filepath.Join(img.Tree(), "etc/motd"))
	if err != nil || string(motd) != "well met\n" {
		t.Errorf("the playbook of the cluster file wrote %q: %v", motd, err)
	}
	for _, p := range img.Manifest.Phases {
		t.Logf("%s: %.1fs", p.Name, p.Seconds)
		if p.Name == "Debian packages" {
			t.Error("the package tree was made anew for a playbook")
		}
	}

	t.Run("again builds nothing", func(t *testing.T) {
		start := time.Now()
		out := b.mustRun("image", "build", "--tree-only")
		took := time.Since(start)
		t.Logf("unchanged: %v", took.Round(10*time.Millisecond))
		if !strings.Contains(out, "up to date") {
			t.Error(out)
		}
	})

	t.Run("a broken playbook", func(t *testing.T) {
		b.playbook("site.yml", "    - name: Break\n      ansible.builtin.command: /bin/false\n")
		b.refused(`task "Break" failed`, "non-zero return code", "playbooks:")
	})

	t.Run("an unreachable mirror", func(t *testing.T) {
		b.describe(`mirror = "http://127.0.0.1:9/debian"`)
		b.refused("http://127.0.0.1:9/debian", "check that the mirror can be reached")
	})

	t.Run("interrupted", func(t *testing.T) {
		b.describe(`playbooks = ["site.yml"]`)
		b.playbook("site.yml", "    - name: Take long\n      ansible.builtin.command: sleep 600\n")
		before := b.files()
		cmd := b.command(t.Context(), "image", "build", "--tree-only")
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := waitFor(t, stderr, "playbooks ...")
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(stderr)
		err = cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 130 || !strings.Contains(string(rest), "interrupted") {
			t.Errorf("%v\n%s%s", err, said, rest)
		}
		if after := b.files(); !slices.Equal(before, after) {
			t.Errorf("the images directory had %v, has %v", before, after)
		}
	})

	t.Run("an image block that was not built", func(t *testing.T) {
		b.describe(`vars = { greeting = "never built" }`)
		for _, command := range []string{"plan", "up"} {
			if _, err := b.run(command); err == nil || !strings.Contains(err.Error(), "plasmid image build") {
				t.Errorf("%s: %v", command, err)
			}
		}
	})

	t.Run("no root", func(t *testing.T) {
		cmd := b.command(t.Context(), "image", "build")
		cmd.Env = append(cmd.Env, "PLASMID_STATE="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		b.readable()
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "needs root") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// waitFor reads until a line contains what, and returns all that was read.
func waitFor(t *testing.T, r io.Reader, what string) string {
	t.Helper()
	var said strings.Builder
	s := bufio.NewScanner(r)
	for s.Scan() {
		said.WriteString(s.Text() + "\n")
		if strings.Contains(s.Text(), what) {
			return said.String()
		}
	}
	t.Fatalf("it never said %q:\n%s", what, said.String())
	return ""
}

// A disk that is full from the start, and one that fills up during the build.
func TestImageBuildWithoutSpace(t *testing.T) {
	state := func(size string) string {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	t.Run("full", func(t *testing.T) {
		b := newBuilder(t, state("64m"), "")
		b.refused("MiB free", "PLASMID_STATE")
	})
	t.Run("fills up", func(t *testing.T) {
		dir := state("4500m")
		b := newBuilder(t, dir, "")
		cmd := b.command(t.Context(), "image", "build", "--tree-only")
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, stderr, "copy of the package tree ...")
		shrink(t, dir, 200<<20) // less than the copy still needs
		rest, _ := io.ReadAll(stderr)
		if err := cmd.Wait(); err == nil || !strings.Contains(string(rest), "no space left on the disk") {
			t.Errorf("%v\n%s", err, rest)
		}
		if left := b.files(); len(left) > 0 && slices.ContainsFunc(left, func(n string) bool { return strings.HasPrefix(n, ".build-") }) {
			t.Errorf("left: %v", left)
		}
	})
}

// shrink leaves a tmpfs that much free space, at once.
func shrink(t *testing.T, dir string, free uint64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	used := (st.Blocks - st.Bfree) * uint64(st.Bsize)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used+free)); err != nil {
		t.Fatal(err)
	}
}

// The qcow2 boots by BIOS and by UEFI, and all is well inside.
func TestImageBoots(t *testing.T) {
	c := &cluster{t: t, name: "boots", dir: t.TempDir()}
	c.write(`nodes "core" { count = 1 }`)
	nothingLeft(t, "")
	t.Log(c.mustRun("image", "build"))
	accel := os.Getenv("PLASMID_TEST_ACCEL")
	if accel == "" {
		accel = "tcg" // works everywhere
	}
	t.Log("\n" + c.mustRun("image", "test", "--accel", accel))
}
