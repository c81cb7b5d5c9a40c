//go:build openstack

package openstack

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	nodeimage "plasmid/image"
	"plasmid/provision/config"
	"plasmid/provision/openstack"
)

// building is an image that is built from one of zeros: its server never boots.
func (p *project) building(t *testing.T, owner string, spoil ...func(*config.Cluster)) (*openstack.Builder, nodeimage.Options) {
	t.Helper()
	o := made
	o.Flavor, o.ExternalNetwork, o.SSHAllow = "m1.tiny", "ext-net", []string{"172.24.4.0/24"}
	c := &config.Cluster{Name: "build", Provider: config.Provider{OpenStack: &o}, Image: config.Image{Cloud: &config.CloudBuild{Source: "tiny"}},
		Nodes: []config.NodeGroup{{Name: "core", Count: 3, PublicIPv4: "floating"}}}
	for _, f := range spoil {
		f(c)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"playbooks/node.yml": "[]\n", "bin/plasmid": "", "bin/plasmidd": "", "bin/confd": ""} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	options := nodeimage.Options{Config: c.Image, State: filepath.Join(dir, "state"), Playbooks: filepath.Join(dir, "playbooks"), Binaries: filepath.Join(dir, "bin")}
	return openstack.NewBuilder(p.connect(t), c, owner, nil), options
}

// serverIsThere waits for the server of a build.
func (p *project) serverIsThere(t *testing.T, before map[string]string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Minute); count(before, p.census(t), "servers") == 0; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatal("no server is made")
		}
	}
}

// stopServers does what servers do at the end of a build.
func (p *project) stopServers(t *testing.T) {
	t.Helper()
	pages, err := servers.List(p.compute, nil).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := servers.ExtractServers(pages)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if err := servers.WaitForStatus(t.Context(), p.compute, s.ID, "ACTIVE"); err != nil {
			t.Fatal(err)
		}
		if err := servers.Stop(t.Context(), p.compute, s.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// A build that is interrupted, at whatever it is, takes all of it back.
func TestBuildInterrupted(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	before := p.census(t)
	b, o := p.building(t, "me")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, _, err := nodeimage.BuildInCloud(ctx, o, b)
		done <- err
	}()
	p.serverIsThere(t, before)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the build ends with %v", err)
	}
	if left := diff(before, p.census(t)); left != "" {
		t.Errorf("the build left:\n%s", left)
	}
	if left := p.images(t); len(left) > 0 {
		t.Errorf("images left: %v", left)
	}
}

// What a build that was killed left, with a snapshot that was never finished, is
// found and removed by the next one of the same owner. Another's build, and the
// cluster itself, are not touched.
func TestBuildKilled(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	before := p.census(t)
	me, _ := p.building(t, "me")
	you, _ := p.building(t, "you")
	t.Cleanup(func() {
		for _, b := range []*openstack.Builder{me, you} {
			if err := b.Clear(context.Background()); err != nil {
				t.Error(err)
			}
		}
		if left := diff(before, p.census(t)); left != "" {
			t.Errorf("left:\n%s", left)
		}
		if left := p.images(t); len(left) > 0 {
			t.Errorf("images left: %v", left)
		}
	})
	for _, b := range []*openstack.Builder{me, you} {
		ctx, kill := context.WithCancel(t.Context())
		done := make(chan struct{})
		now := p.census(t)
		go func() {
			defer close(done)
			b.Boot(ctx, "builder", "ssh-ed25519 AAAA") //nolint:errcheck // it is killed
		}()
		p.serverIsThere(t, now)
		kill()
		<-done
	}
	p.stopServers(t)
	// The snapshot of an imagined server is never filled.
	ctx, kill := context.WithTimeout(t.Context(), 5*time.Minute)
	defer kill()
	go func() {
		for ctx.Err() == nil && len(p.images(t)) == 0 {
			time.Sleep(time.Second)
		}
		kill()
	}()
	if err := me.Snapshot(ctx, "0123456789ab", "forky"); err == nil {
		t.Error("there is a snapshot of a server that was never on")
	}
	if len(p.images(t)) == 0 {
		t.Error("no snapshot was begun")
	}
	if there, err := me.Find(t.Context(), "0123456789ab"); err != nil || there {
		t.Errorf("a snapshot that is not whole is taken for an image: %v, %v", there, err)
	}
	yours := func() []string {
		var out []string
		for id, what := range p.census(t) {
			if _, old := before[id]; !old && strings.Contains(what, "+image-you") {
				out = append(out, id)
			}
		}
		slices.Sort(out)
		return out
	}
	theirs := yours()
	if len(theirs) == 0 {
		t.Error("the other build has left nothing, so that nothing is shown")
	}
	if err := me.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, what := range p.census(t) {
		if _, old := before[id]; !old && strings.Contains(what, "+image-me") {
			t.Errorf("left: %s %s", id, what)
		}
	}
	if left := p.images(t); len(left) > 0 {
		t.Errorf("images left: %v", left)
	}
	if n := count(before, p.census(t), "servers"); n != 1 {
		t.Errorf("%d servers are left, want that of the other build", n)
	}
	if still := yours(); !slices.Equal(theirs, still) {
		t.Errorf("of the other build there was %v and is %v", theirs, still)
	}
}

// What the file names and the cloud does not have is said before anything is
// made.
func TestBuildRefused(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	before := p.census(t)
	for says, spoil := range map[string]func(*config.Cluster){
		`there is no image "nothing"`:  func(c *config.Cluster) { c.Image.Cloud.Source = "nothing" },
		`there is no flavor "nothing"`: func(c *config.Cluster) { c.Image.Cloud.Flavor = "nothing" },
	} {
		b, o := p.building(t, "me", spoil)
		if _, _, err := nodeimage.BuildInCloud(t.Context(), o, b); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if left := diff(before, p.census(t)); left != "" {
		t.Errorf("left:\n%s", left)
	}
}
