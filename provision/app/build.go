package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"plasmid/image"
	"plasmid/internal/progress"
)

// Builder builds images from Dockerfiles, with buildah: no daemon and no
// registry is needed. What it keeps is below the state directory and apart
// from the host's own containers.
type Builder struct {
	State    string
	Binaries string // where Plasmid's programs are
	Log      *progress.Log
}

// Built is an image in an OCI layout.
type Built struct {
	Name   string `json:"name"`
	Layout string `json:"layout"` // directory with blobs/sha256
	Digest string `json:"digest"` // of its manifest
}

// BaseImage is what Dockerfiles begin from: Debian with apt, the suite is the
// tag. Most begin from Testing, as the machines do.
const BaseImage = "localhost/plasmid/debian"

// baseFormat changes when the base image is made in another way.
const baseFormat = 2

func (b *Builder) dir() string { return filepath.Join(b.State, "cache", "apps") }

// Build returns the app's images. One whose context has not changed is not
// built again.
func (b *Builder) Build(ctx context.Context, a *App) ([]Built, error) {
	if len(a.Images) == 0 {
		return nil, nil
	}
	if err := os.MkdirAll(b.dir(), 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(b.dir(), ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	var out []Built
	for _, i := range a.Images {
		built, err := b.image(ctx, a, i)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.Name, err)
		}
		out = append(out, built)
	}
	return out, nil
}

func (b *Builder) image(ctx context.Context, a *App, i Image) (Built, error) {
	key, err := b.key(i)
	if err != nil {
		return Built{}, err
	}
	layout := filepath.Join(b.dir(), a.Name+"-"+i.Name+"-"+key)
	if d, err := layoutDigest(layout); err == nil {
		return Built{i.Name, layout, d}, nil
	}
	if _, err := exec.LookPath("buildah"); err != nil {
		return Built{}, errors.New("buildah is not installed; run: make deps")
	}
	suites, err := baseSuites(filepath.Join(i.Context, "Dockerfile"))
	if err != nil {
		return Built{}, err
	}
	for _, suite := range suites {
		if err := b.base(ctx, suite); err != nil {
			return Built{}, err
		}
	}
	task := b.Log.Start("image %s/%s", a.Name, i.Name)
	return Built{i.Name, layout, ""}.finish(task.Done(b.build(ctx, i, layout)))
}

func (b Built) finish(err error) (Built, error) {
	if err != nil {
		return b, err
	}
	b.Digest, err = layoutDigest(b.Layout)
	return b, err
}

// build runs buildah over a copy of the context and writes the layout, whole
// or not at all.
func (b *Builder) build(ctx context.Context, i Image, layout string) error {
	tmp, err := os.MkdirTemp(b.dir(), ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	work := filepath.Join(tmp, "context")
	if err := os.CopyFS(work, os.DirFS(i.Context)); err != nil {
		return err
	}
	for name, file := range b.added(i) {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, name), data, info.Mode().Perm()); err != nil {
			return err
		}
	}
	tag := "localhost/plasmid/build:" + filepath.Base(layout)
	if err := b.buildah(ctx, "build", "--isolation", "chroot", "--network", "host", "--layers", "--pull-never", "--timestamp", "0", "--tag", tag, work); err != nil {
		return err
	}
	out := filepath.Join(tmp, "layout")
	if err := b.buildah(ctx, "push", "--quiet", tag, "oci:"+out+":latest"); err != nil {
		return err
	}
	if err := os.RemoveAll(layout); err != nil {
		return err
	}
	return os.Rename(out, layout)
}

var fromBase = regexp.MustCompile(`(?mi)^FROM[ \t]+` + regexp.QuoteMeta(BaseImage) + `:([a-z]+)(?:[ \t]|$)`)

// baseSuites lists the suites of Debian that a Dockerfile's stages begin from.
func baseSuites(dockerfile string) ([]string, error) {
	data, err := os.ReadFile(dockerfile)
	if err != nil {
		return nil, err
	}
	var suites []string
	for _, m := range fromBase.FindAllStringSubmatch(string(data), -1) {
		if !slices.Contains(suites, m[1]) {
			suites = append(suites, m[1])
		}
	}
	return suites, nil
}

// base makes the base image of a suite, unless it is there.
func (b *Builder) base(ctx context.Context, suite string) error {
	ref := BaseImage + ":" + suite
	mark := filepath.Join(b.dir(), fmt.Sprintf("base-%s-%d", suite, baseFormat))
	if _, err := os.Stat(mark); err == nil && b.buildah(ctx, "inspect", "--type", "image", ref) == nil {
		return nil
	}
	task := b.Log.Start("base image of containers, Debian %s", suite)
	return task.Done(func() error {
		tmp, err := os.MkdirTemp(b.dir(), ".base-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		// A tar file keeps owners and modes.
		tree := filepath.Join(tmp, "tree.tar")
		if err := image.Base(ctx, task, tree, suite, []string{"ca-certificates"}); err != nil {
			return err
		}
		name := filepath.Base(tmp)
		for _, args := range [][]string{
			{"from", "--name", name, "scratch"},
			{"add", "--quiet", name, tree, "/"},
			{"config", "--cmd", "/bin/sh", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "--env", "DEBIAN_FRONTEND=noninteractive", name},
			{"commit", "--quiet", "--rm", name, ref},
		} {
			if err := b.buildah(ctx, args...); err != nil {
				return err
			}
		}
		return os.WriteFile(mark, nil, 0o600)
	}())
}

// buildah runs buildah with its storage in the state directory.
func (b *Builder) buildah(ctx context.Context, args ...string) error {
	store := filepath.Join(b.dir(), "storage")
	all := append([]string{"--root", store, "--runroot", filepath.Join(b.dir(), "run"), "--storage-driver", "overlay"}, args...)
	cmd := exec.CommandContext(ctx, "buildah", all...)
	cmd.Env = append(os.Environ(), "BUILDAH_ISOLATION=chroot", "TMPDIR="+b.dir())
	// It mounts its storage, and what it builds; in a mount namespace of its own
	// nothing of that is left on the host when it is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Unshareflags: syscall.CLONE_NEWNS}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
		return fmt.Errorf("buildah %s: %w:\n%s", args[0], err, bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
	}
	return nil
}

// added are the files that are put into an image's context, by their names
// there.
func (b *Builder) added(i Image) map[string]string {
	files := map[string]string{}
	for _, f := range i.Files {
		files[filepath.Base(f)] = f
	}
	for _, p := range i.Programs {
		files[p] = filepath.Join(b.Binaries, p)
	}
	return files
}

// key names what an image is built from.
func (b *Builder) key(i Image) (string, error) {
	h := sha256.New()
	enc := json.NewEncoder(h)
	if err := enc.Encode([]any{"app image", baseFormat, i.Programs}); err != nil {
		return "", err
	}
	files := map[string]string{} // by the name in the context
	if err := filepath.WalkDir(i.Context, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(i.Context, path)
		files[rel] = path
		return err
	}); err != nil {
		return "", err
	}
	maps.Copy(files, b.added(i))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data, err := os.ReadFile(files[name])
		if err != nil {
			return "", err
		}
		info, err := os.Stat(files[name])
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(data)
		if err := enc.Encode([]any{name, info.Mode().Perm() & 0o111, hex.EncodeToString(sum[:])}); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// layoutDigest reads the digest of the only manifest in an OCI layout, see
// https://specs.opencontainers.org/image-spec/image-layout/.
func layoutDigest(layout string) (string, error) {
	data, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		return "", err
	}
	var index struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return "", err
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s has %d images, not one", layout, len(index.Manifests))
	}
	return index.Manifests[0].Digest, nil
}
