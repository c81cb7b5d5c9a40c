//go:build openstack_full

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"plasmid/internal/progress"
	"plasmid/provision/config"
	"plasmid/provision/configdrive"
)

// emulated is a cloud with one server, which QEMU emulates.
type emulated struct {
	t        *testing.T
	stock    string
	dir      string
	m        *machine
	snapshot string
}

func (c *emulated) Source(context.Context) (Source, error) {
	return Source{ID: "stock", Name: "stock"}, nil
}
func (c *emulated) Find(context.Context, string) (bool, error) { return false, nil }

func (c *emulated) Boot(ctx context.Context, user, key string) (string, ssh.PublicKey, error) {
	data, err := json.Marshal(map[string]any{"users": []any{map[string]any{"name": user, "sudo": "ALL=(ALL) NOPASSWD:ALL", "ssh_authorized_keys": []string{key}}}})
	if err != nil {
		return "", nil, err
	}
	drive := configdrive.Machine{UUID: "00000000-0000-4000-8000-000000000001", Name: "build", Cluster: "build", MAC: bootMAC,
		Address: bootAddress, Netmask: "255.255.255.0", Gateway: bootGateway}.Files()
	drive["openstack/latest/user_data"] = append([]byte("#cloud-config\n"), data...)
	if c.m, err = startMachine(context.WithoutCancel(ctx), nil, c.stock, DefaultDiskGiB+bootGrow, drive, BIOS, "tcg", c.dir); err != nil {
		return "", nil, err
	}
	host, err := c.m.hostKey(ctx)
	return c.m.ssh, host, err
}

func (c *emulated) Snapshot(ctx context.Context, _, suite string) error {
	if suite == "" {
		c.t.Error("nobody says which Debian it is")
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Minute):
		return c.m.explain(errors.New("the server does not power itself off"))
	case <-c.m.done:
	}
	return run(ctx, nil, nil, "", "qemu-img", "convert", "-O", "qcow2", ownDisk(c.dir), c.snapshot)
}

func (c *emulated) Clear(context.Context) error {
	if c.m != nil {
		c.m.end()
	}
	return nil
}

// An image that was built on a server, from a plain Debian, is as good as one
// that was built here: it boots and all is well, seen from inside.
func TestServerBuild(t *testing.T) {
	dir := t.TempDir()
	log := progress.New(os.Stderr, false)
	stock := os.Getenv("PLASMID_STOCK")
	if stock == "" {
		stock = filepath.Join(dir, "stock.qcow2")
		if err := Stock(t.Context(), "testing", []string{"docker.io", "docker-cli", "etcd-server", "etcd-client", "nftables", "less"}, stock, dir, log); err != nil {
			t.Fatal(err)
		}
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	no := false
	o := Options{
		Config:    config.Image{Cloud: &config.CloudBuild{Source: "stock"}, Mirror: serveMirror(t), CheckValidUntil: &no},
		State:     filepath.Join(dir, "state"),
		Playbooks: filepath.Join(root, "playbooks"), Binaries: filepath.Join(root, "bin"), Log: log,
	}
	c := &emulated{t: t, stock: stock, dir: filepath.Join(dir, "server"), snapshot: filepath.Join(dir, "snapshot.qcow2")}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	img, built, err := BuildInCloud(t.Context(), o, c)
	if err != nil || !built {
		t.Fatalf("built %v: %v", built, err)
	}
	t.Logf("built in %.0f s: %v", time.Since(start).Seconds(), img.Manifest.Phases)
	for _, want := range []string{"docker.io", "etcd-server"} {
		if !strings.Contains(fmt.Sprint(img.Manifest.Packages), want) {
			t.Errorf("the manifest has no %s", want)
		}
	}

	result := &Image{ID: img.ID, Dir: dir, Manifest: Manifest{Disk: &Disk{VirtualGiB: DefaultDiskGiB + bootGrow}}}
	if err := os.Rename(c.snapshot, result.Disk()); err != nil {
		t.Fatal(err)
	}
	boots, err := TestBoot(t.Context(), result, BootOptions{Firmware: []string{BIOS}, Accel: "tcg", Timeout: 20 * time.Minute, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", boots[0])
	for _, p := range boots[0].Problems {
		t.Error(p)
	}
}

// serveMirror passes on what this host's apt fetches packages from, to machines
// of QEMU's.
func serveMirror(t *testing.T) string {
	t.Helper()
	mirror, _, err := AptPolicy(t.Context(), config.Image{})
	if err != nil {
		t.Fatal(err)
	}
	from, err := url.Parse(mirror)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(from)
		r.Out.Host = from.Host
	}}}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return fmt.Sprintf("http://%s:%d/", bootGateway, l.Addr().(*net.TCPAddr).Port)
}
