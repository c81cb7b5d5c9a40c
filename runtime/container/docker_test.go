//go:build docker

// These tests ask the Docker of the machine that they run on. They are compiled
// elsewhere and run on a machine made for them.

package container_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"plasmid/runtime/container"
	"plasmid/runtime/images"
)

// newRegistry serves one image, of one file with a content, and returns where
// and by which reference. Its blobs are this machine's, as in plasmidd.
func newRegistry(t *testing.T, content string) (registry, ref string) {
	t.Helper()
	s, err := images.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(data []byte) string {
		d := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		if err := s.Put(images.Digest(d), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(content))
	w.Close()
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(plain.Bytes())
	z.Close()
	object := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	type o = map[string]any
	config := object(o{
		"architecture": "amd64", "os": "linux", "config": o{"Cmd": []string{"/file"}},
		"rootfs": o{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(plain.Bytes()))}},
	})
	manifest := put(object(o{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
		"config": o{"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config), "digest": put(config)},
		"layers": []o{{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": packed.Len(), "digest": put(packed.Bytes())}},
	}))
	srv := httptest.NewServer(s.Registry())
	t.Cleanup(srv.Close)
	registry = strings.TrimPrefix(srv.URL, "http://")
	return registry, registry + "/app/one@" + manifest
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// An image that came from here is listed, and removed when no container has it.
func TestImages(t *testing.T) {
	registry, ref := newRegistry(t, t.Name())
	d, err := container.New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Pull(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	has := func(want bool) {
		t.Helper()
		refs, err := d.Images(t.Context(), registry)
		if err != nil || slices.Contains(refs, ref) != want || len(refs) > 1 {
			t.Errorf("of %s Docker has %q, %v", registry, refs, err)
		}
		if have, err := d.HasImage(t.Context(), ref); err != nil || have != want {
			t.Errorf("Docker has the image: %v, %v", have, err)
		}
	}
	has(true)
	if refs, err := d.Images(t.Context(), "127.0.0.1:1"); err != nil || len(refs) > 0 {
		t.Errorf("of another registry it has %q, %v", refs, err)
	}
	id := docker(t, "create", ref)
	if removed, err := d.RemoveImage(t.Context(), ref); err != nil || removed {
		t.Errorf("an image that a container has: removed %v, %v", removed, err)
	}
	has(true)
	docker(t, "rm", id)
	if removed, err := d.RemoveImage(t.Context(), ref); err != nil || !removed {
		t.Errorf("removed %v, %v", removed, err)
	}
	has(false)
	if removed, err := d.RemoveImage(t.Context(), ref); err != nil || removed {
		t.Errorf("again: removed %v, %v", removed, err)
	}
}

// A container of a shell from the machine itself runs, and is ended without
// Docker's help.
func TestKillDirectly(t *testing.T) {
	const name = "plasmid-test-direct"
	script := "tar -chf - -C / usr/bin/sleep lib64/ld-linux-x86-64.so.2 usr/lib/x86_64-linux-gnu/libc.so.6 | docker import - plasmid-test-direct:1"
	if out, err := exec.CommandContext(t.Context(), "sh", "-euc", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		_ = exec.Command("docker", "rm", "--force", name).Run()
		_ = exec.Command("docker", "rmi", name+":1").Run()
	})
	runs := func(want bool) {
		t.Helper()
		if r, err := container.Runs(name); err != nil || r != want {
			t.Errorf("it runs: %v, %v; want %v", r, err, want)
		}
	}
	runs(false)
	if err := container.Kill(name); err != nil {
		t.Errorf("one that is not there: %v", err)
	}
	docker(t, "run", "--detach", "--name", name, name+":1", "/usr/bin/sleep", "infinity")
	runs(true)
	if err := container.Kill(name); err != nil {
		t.Fatal(err)
	}
	if code := docker(t, "wait", name); code != "137" {
		t.Errorf("it ended with %s", code)
	}
	runs(false)
	if err := container.Kill(name); err != nil {
		t.Errorf("one that has ended: %v", err)
	}
}
