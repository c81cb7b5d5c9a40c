//go:build openstack

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
)

// lifeCycleCommand is what this program is called with in the lab's network.
const lifeCycleCommand = "life-cycle"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lifeCycleCommand {
		ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
		defer cancel()
		if err := lifeCycle(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// build makes the program under test.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "openstack-lab")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// testLab runs the program for a lab of this test's own, with the cache of
// all, and takes it down in the end.
func testLab(t *testing.T, name string) (run func(args ...string) (string, error), s site, command func(args ...string) *exec.Cmd) {
	t.Helper()
	bin := build(t)
	s, err := newSite(defaultDir, fmt.Sprintf("%s-%d", name, os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	command = func(args ...string) *exec.Cmd {
		return exec.Command(bin, append([]string{"--name", s.name}, args...)...)
	}
	run = func(args ...string) (string, error) {
		began := time.Now()
		out, err := command(args...).CombinedOutput()
		t.Logf("%s: %.1f s\n%s", strings.Join(args, " "), time.Since(began).Seconds(), out)
		return string(out), err
	}
	t.Cleanup(func() {
		if _, err := run("down"); err != nil {
			t.Errorf("down: %v", err)
		}
	})
	return run, s, command
}

func TestLab(t *testing.T) {
	run, s, _ := testLab(t, "test")
	if _, err := run("up"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := run("up"); err != nil {
		t.Fatalf("up once more: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("up of a lab that is up took %v", took)
	}
	if out, err := run("up", "--tier", "qemu"); err == nil || !strings.Contains(out, "take it down") {
		t.Errorf("up with another tier says %v", err)
	}
	if _, err := run("status"); err != nil {
		t.Errorf("status: %v", err)
	}
	if info, err := os.Stat(s.clouds()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("clouds.yaml: %v, %v", info, err)
	}
	if _, err := run("exec", "--", "false"); err == nil {
		t.Error("exec hides that its command fails")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run("exec", "--", self, lifeCycleCommand); err != nil {
		t.Errorf("a life cycle: %v", err)
	}

	guestImages(t, run)

	// As Nova has them for containers.
	loop := "truncate -s 1M /var/lib/nova/" + s.name + "; losetup --find /var/lib/nova/" + s.name
	if _, err := run("exec", "--inside", "--", "sh", "-ec", loop); err != nil {
		t.Fatal(err)
	}

	// A service that ends is seen.
	if _, err := run("exec", "--inside", "--", "pkill", "-KILL", "-f", "neutron-l3-agen[t]"); err != nil {
		t.Fatal(err)
	}
	want := "neutron-l3-agent was killed by SIGKILL"
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, err := run("status")
		if err != nil && strings.Contains(out, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("status doesn't say %q", want)
		}
	}
	if out, err := run("up"); err == nil || !strings.Contains(out, want) {
		t.Errorf("up of a lab with a dead service says %v", err)
	}

	pid := s.process1()
	if _, err := run("down"); err != nil {
		t.Fatal(err)
	}
	checkGone(t, s, pid)
	if out, err := run("status"); err == nil || !strings.Contains(out, "not up") {
		t.Errorf("status of no lab says %v", err)
	}
}

// guestImages puts node images into a lab, of which there is one of a name
// whatever was there before.
func guestImages(t *testing.T, run func(...string) (string, error)) {
	t.Helper()
	state := t.TempDir()
	node := func(id string) {
		t.Helper()
		dir := filepath.Join(state, "images", id)
		for _, d := range []string{"usr/lib/systemd", "usr/sbin", "etc/cloud/cloud.cfg.d", "etc/systemd/network", "etc/systemd/system"} {
			if err := os.MkdirAll(filepath.Join(dir, "tree", d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		latest := filepath.Join(state, "images", ".latest")
		_ = os.Remove(latest)
		for _, err := range []error{
			os.WriteFile(filepath.Join(dir, "tree/usr/lib/systemd/systemd"), nil, 0o755),
			os.WriteFile(filepath.Join(dir, "manifest.json"), []byte("{}"), 0o644),
			os.Symlink(id, latest),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	inLab := func() string {
		t.Helper()
		out, err := run("exec", "--inside", "--cloud", "lab-admin", "--", "openstack", "image", "list", "--name=plasmid-lxc", "--format=value", "--column=ID")
		if err != nil {
			t.Fatal(err)
		}
		if len(strings.Fields(out)) != 1 {
			t.Errorf("images of one name: %q", out)
		}
		return out
	}
	image := func(args ...string) string {
		t.Helper()
		if _, err := run(append([]string{"image", "--state", state}, args...)...); err != nil {
			t.Fatal(err)
		}
		return inLab()
	}
	node("one")
	first := image()
	if again := image(); again != first {
		t.Error("the same image was put in again")
	}
	node("two")
	second := image()
	if second == first {
		t.Error("another image was not put in")
	}
	if third := image("--tree", filepath.Join(state, "images/two/tree")); third == second {
		t.Error("a tree that may have changed was not put in")
	}
}

// TestCutOff kills up when it is half done.
func TestCutOff(t *testing.T) {
	run, s, command := testLab(t, "cut")
	up := command("up")
	r, err := up.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if strings.Contains(lines.Text(), "keystone ") {
			break
		}
	}
	_ = up.Process.Kill()
	_ = up.Wait()
	pid := s.process1()
	if pid == 0 {
		t.Fatal("the lab isn't there")
	}
	if _, err := run("status"); err == nil {
		t.Error("status says that a lab that isn't up is")
	}
	if _, err := run("down"); err != nil {
		t.Fatal(err)
	}
	checkGone(t, s, pid)
}

// checkGone looks for what the lab may have left, with other eyes than down's.
func checkGone(t *testing.T, s site, pid int) {
	t.Helper()
	if _, err := beganAt(pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("process 1 is still there: %v", err)
	}
	if _, err := os.Stat(s.home()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", s.home(), err)
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), s.name) {
			t.Errorf("control group %s is still there", path)
		}
		return nil
	})
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range loops {
		if content, err := os.ReadFile(l); err == nil && bytes.Contains(content, []byte(s.name)) {
			t.Errorf("%s is still there: %s", l, content)
		}
	}
	mounts, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if content, err := os.ReadFile(m); err == nil && bytes.Contains(content, []byte(s.home()+"/")) {
			t.Errorf("a mount of the lab is still there in %s", m)
		}
	}
}

// lifeCycle makes a network with a server that has a floating address, as the
// lab's user, and deletes it all.
func lifeCycle(ctx context.Context) error {
	auth, region, tls, err := clouds.Parse()
	if err != nil {
		return err
	}
	client, err := config.NewProviderClient(ctx, auth, config.WithTLSConfig(tls))
	if err != nil {
		return err
	}
	compute, err := openstack.NewComputeV2(client, region)
	if err != nil {
		return err
	}
	compute.Microversion = "2.90"
	network, err := openstack.NewNetworkV2(client, region)
	if err != nil {
		return err
	}
	store, err := openstack.NewImageV2(client, region)
	if err != nil {
		return err
	}
	before, err := counts(ctx, compute, network)
	if err != nil {
		return err
	}
	pages, err := images.List(store, images.ListOpts{Name: tinyImage}).AllPages(ctx)
	if err != nil {
		return err
	}
	found, err := images.ExtractImages(pages)
	if err != nil || len(found) != 1 || found[0].Status != images.ImageStatusActive {
		return fmt.Errorf("images: %v, %w", found, err)
	}
	pages, err = flavors.ListDetail(compute, nil).AllPages(ctx)
	if err != nil {
		return err
	}
	kinds, err := flavors.ExtractFlavors(pages)
	if err != nil || len(kinds) != 3 {
		return fmt.Errorf("flavors: %v, %w", kinds, err)
	}
	pages, err = networks.List(network, networks.ListOpts{Name: externalNet}).AllPages(ctx)
	if err != nil {
		return err
	}
	outside, err := networks.ExtractNetworks(pages)
	if err != nil || len(outside) != 1 {
		return fmt.Errorf("external network: %v, %w", outside, err)
	}

	net, err := networks.Create(ctx, network, networks.CreateOpts{Name: "life"}).Extract()
	if err != nil {
		return err
	}
	subnet, err := subnets.Create(ctx, network, subnets.CreateOpts{NetworkID: net.ID, CIDR: "10.20.0.0/24", IPVersion: gophercloud.IPv4}).Extract()
	if err != nil {
		return err
	}
	router, err := routers.Create(ctx, network, routers.CreateOpts{Name: "life", GatewayInfo: &routers.GatewayInfo{NetworkID: outside[0].ID}}).Extract()
	if err != nil {
		return err
	}
	if _, err := routers.AddInterface(ctx, network, router.ID, routers.AddInterfaceOpts{SubnetID: subnet.ID}).Extract(); err != nil {
		return err
	}
	port, err := ports.Create(ctx, network, ports.CreateOpts{NetworkID: net.ID, Name: "life"}).Extract()
	if err != nil {
		return err
	}
	address, err := floatingips.Create(ctx, network, floatingips.CreateOpts{FloatingNetworkID: outside[0].ID, PortID: port.ID}).Extract()
	if err != nil {
		return err
	}
	began := time.Now()
	server, err := servers.Create(ctx, compute, servers.CreateOpts{
		Name: "life", ImageRef: found[0].ID, FlavorRef: kinds[0].ID, Networks: []servers.Network{{Port: port.ID}},
		UserData: []byte(base64.StdEncoding.EncodeToString([]byte("#cloud-config\n"))), Tags: []string{"life"},
	}, nil).Extract()
	if err != nil {
		return err
	}
	if err := servers.WaitForStatus(ctx, compute, server.ID, "ACTIVE"); err != nil {
		return err
	}
	fmt.Printf("server active after %.1f s\n", time.Since(began).Seconds())
	during, err := counts(ctx, compute, network)
	if err != nil {
		return err
	}
	want := map[string]int{"servers": 1, "networks": 1, "subnets": 1, "routers": 1, "floating IPs": 1, "server ports": 1}
	if diff := cmp.Diff(want, less(during, before)); diff != "" {
		return fmt.Errorf("made (-want +got):\n%s", diff)
	}

	began = time.Now()
	if err := servers.Delete(ctx, compute, server.ID).ExtractErr(); err != nil {
		return err
	}
	for {
		_, err := servers.Get(ctx, compute, server.ID).Extract()
		if gophercloud.ResponseCodeIs(err, 404) {
			break
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	_, err = routers.RemoveInterface(ctx, network, router.ID, routers.RemoveInterfaceOpts{SubnetID: subnet.ID}).Extract()
	// A floating address keeps the interface that it needs.
	if !gophercloud.ResponseCodeIs(err, 409) {
		return fmt.Errorf("removing an interface in use: %w", err)
	}
	if err := floatingips.Delete(ctx, network, address.ID).ExtractErr(); err != nil {
		return err
	}
	if err := ports.Delete(ctx, network, port.ID).ExtractErr(); err != nil {
		return err
	}
	if _, err := routers.RemoveInterface(ctx, network, router.ID, routers.RemoveInterfaceOpts{SubnetID: subnet.ID}).Extract(); err != nil {
		return err
	}
	if err := routers.Delete(ctx, network, router.ID).ExtractErr(); err != nil {
		return err
	}
	if err := networks.Delete(ctx, network, net.ID).ExtractErr(); err != nil {
		return err
	}
	fmt.Printf("all deleted after %.1f s\n", time.Since(began).Seconds())
	after, err := counts(ctx, compute, network)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(before, after); diff != "" {
		return fmt.Errorf("left (-before +after):\n%s", diff)
	}
	return nil
}

// counts is how many of each kind of thing the user sees.
func counts(ctx context.Context, compute, network *gophercloud.ServiceClient) (map[string]int, error) {
	n := map[string]int{}
	pages, err := servers.List(compute, nil).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	s, err := servers.ExtractServers(pages)
	if err != nil {
		return nil, err
	}
	n["servers"] = len(s)
	if pages, err = networks.List(network, nil).AllPages(ctx); err != nil {
		return nil, err
	}
	nets, err := networks.ExtractNetworks(pages)
	if err != nil {
		return nil, err
	}
	n["networks"] = len(nets)
	if pages, err = subnets.List(network, nil).AllPages(ctx); err != nil {
		return nil, err
	}
	subs, err := subnets.ExtractSubnets(pages)
	if err != nil {
		return nil, err
	}
	n["subnets"] = len(subs)
	if pages, err = routers.List(network, nil).AllPages(ctx); err != nil {
		return nil, err
	}
	r, err := routers.ExtractRouters(pages)
	if err != nil {
		return nil, err
	}
	n["routers"] = len(r)
	if pages, err = floatingips.List(network, nil).AllPages(ctx); err != nil {
		return nil, err
	}
	f, err := floatingips.ExtractFloatingIPs(pages)
	if err != nil {
		return nil, err
	}
	n["floating IPs"] = len(f)
	if pages, err = ports.List(network, nil).AllPages(ctx); err != nil {
		return nil, err
	}
	p, err := ports.ExtractPorts(pages)
	if err != nil {
		return nil, err
	}
	for _, port := range p {
		// Ports of DHCP come and go with the network, in their own time.
		if !strings.HasPrefix(port.DeviceOwner, "network:") {
			n["server ports"]++
		}
	}
	return n, nil
}

func less(a, b map[string]int) map[string]int {
	d := map[string]int{}
	for k := range a {
		if a[k] != b[k] {
			d[k] = a[k] - b[k]
		}
	}
	return d
}
