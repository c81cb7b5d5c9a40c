package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"plasmid/provision/config"
)

// fakeCloud makes servers that do not boot.
type fakeCloud struct {
	t      *testing.T
	source Source
	has    []string // identities
	calls  []string
	boot   func() error
	left   bool // something of a build is there
}

func (c *fakeCloud) call(name string) { c.calls = append(c.calls, name) }

func (c *fakeCloud) Source(context.Context) (Source, error) { return c.source, nil }

func (c *fakeCloud) Find(_ context.Context, identity string) (bool, error) {
	return slices.Contains(c.has, identity), nil
}

func (c *fakeCloud) Boot(_ context.Context, user, key string) (string, ssh.PublicKey, error) {
	c.call("boot")
	c.left = true
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key)); err != nil || user == "" {
		c.t.Errorf("user %q with key %q: %v", user, key, err)
	}
	return "", nil, c.boot()
}

func (c *fakeCloud) Snapshot(context.Context, string, string) error {
	c.call("snapshot")
	return nil
}

func (c *fakeCloud) Clear(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.call("clear")
	c.left = false
	return nil
}

// cloudOptions are those of a build in a cloud that needs nothing of this host
// but its programs.
func cloudOptions(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "playbooks/node.yml", "[]\n")
	for _, p := range Programs {
		write(t, dir, "bin/"+p, p)
	}
	return Options{Config: config.Image{Cloud: &config.CloudBuild{Source: "debian"}}, State: filepath.Join(dir, "state"), Place: "mycloud",
		Playbooks: filepath.Join(dir, "playbooks"), Binaries: filepath.Join(dir, "bin")}
}

// What an earlier build left goes first. Whatever becomes of a build, its server
// goes too, and nothing is taken for an image.
func TestBuildInCloudClears(t *testing.T) {
	broken := errors.New("no room")
	for _, c := range []struct {
		name string
		boot func(cancel func()) error
		want error
	}{
		{"the server fails", func(func()) error { return broken }, broken},
		{"interrupted", func(cancel func()) error { cancel(); return context.Canceled }, context.Canceled},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		o := cloudOptions(t)
		cloud := &fakeCloud{t: t, source: Source{ID: "1"}, left: true}
		cloud.boot = func() error { return c.boot(cancel) }
		if _, _, err := BuildInCloud(ctx, o, cloud); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		cancel()
		if want := []string{"clear", "boot", "clear"}; !slices.Equal(cloud.calls, want) || cloud.left {
			t.Errorf("%s: %v, want %v", c.name, cloud.calls, want)
		}
		if _, err := For(o); err == nil {
			t.Errorf("%s: there is an image", c.name)
		}
		if got := ids(t, o.State); len(got) != 0 {
			t.Errorf("%s: images %v", c.name, got)
		}
		if files, _ := filepath.Glob(filepath.Join(imagesDir(o.State), cloudTemp+"*")); len(files) > 0 {
			t.Errorf("%s: left %v", c.name, files)
		}
	}
}

// An image that the cloud has is not built again, by whomever it was built, and
// it is found by the cluster file; the latest for local machines it is not.
func TestBuildInCloudReuses(t *testing.T) {
	o := cloudOptions(t)
	source := Source{ID: "1", Name: "debian", Checksum: "abc"}
	id, err := cloudIdentity(source, o.Config, playbooks(o), o.Binaries)
	if err != nil {
		t.Fatal(err)
	}
	cloud := &fakeCloud{t: t, source: source, has: []string{id}, boot: func() error { return errors.New("built again") }}
	for range 2 {
		img, built, err := BuildInCloud(t.Context(), o, cloud)
		if err != nil || built || img.ID != id || !img.InCloud() {
			t.Fatalf("%+v, built %v, %v", img, built, err)
		}
	}
	if img, err := For(o); err != nil || img.ID != id || img.Manifest.Inputs.Source.Name != "debian" {
		t.Errorf("the cluster file's image: %v, %v", img, err)
	}
	if _, err := Latest(o.State); !errors.Is(err, ErrNone) {
		t.Errorf("the latest image: %v", err)
	}
	other := o
	other.Place = "another cloud"
	if _, err := For(other); err == nil {
		t.Error("another cloud has it too")
	}
	if _, err := TestBoot(t.Context(), &Image{Manifest: Manifest{Inputs: Inputs{Source: &source}}}, BootOptions{}); err == nil || !strings.Contains(err.Error(), "in a cloud") {
		t.Errorf("booting it here: %v", err)
	}

	// Somebody removed it from the cloud.
	cloud.has = nil
	if _, _, err := BuildInCloud(t.Context(), o, cloud); err == nil || !strings.Contains(err.Error(), "built again") {
		t.Errorf("an image that is gone: %v", err)
	}
}

// Builds here and in the cloud do not wait for each other; two of a kind do not
// run at once, and what one that was killed left goes.
func TestBuildsOfBothKinds(t *testing.T) {
	o := cloudOptions(t)
	stale := filepath.Join(imagesDir(o.State), cloudTemp+"1")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	here := &build{Options: o}
	unlock, err := here.lock(".lock", ".build-*")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	cloud := &fakeCloud{t: t}
	cloud.boot = func() error {
		if _, err := os.Stat(stale); err == nil {
			t.Error("what an earlier build left is there")
		}
		_, _, err := BuildInCloud(t.Context(), o, &fakeCloud{t: t})
		return err
	}
	if _, _, err := BuildInCloud(t.Context(), o, cloud); err == nil || !strings.Contains(err.Error(), "another image build is running") {
		t.Errorf("two in the cloud at once: %v", err)
	}
	if !slices.Contains(cloud.calls, "boot") {
		t.Error("a build here keeps one in the cloud from running")
	}
}

func TestBuildInCloudNeedsItsInputs(t *testing.T) {
	o := cloudOptions(t)
	if err := os.Remove(filepath.Join(o.Binaries, "confd")); err != nil {
		t.Fatal(err)
	}
	cloud := &fakeCloud{t: t}
	if _, _, err := BuildInCloud(t.Context(), o, cloud); err == nil || !strings.Contains(err.Error(), "make build") || len(cloud.calls) > 0 {
		t.Errorf("%v after %v", err, cloud.calls)
	}
}

func TestCloudIdentity(t *testing.T) {
	o := cloudOptions(t)
	source := Source{ID: "1", Name: "debian", Checksum: "abc"}
	id := func() string {
		t.Helper()
		s, err := cloudIdentity(source, o.Config, playbooks(o), o.Binaries)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	last := id()
	for what, change := range map[string]func(){
		"another source":   func() { source.ID = "2" },
		"another checksum": func() { source.Checksum = "def" },
		"a variable":       func() { o.Config.Vars = map[string]any{"a": "b"} },
		"a package":        func() { o.Config.Packages = []string{"jq"} },
		"the flavor":       func() { o.Config.Cloud = &config.CloudBuild{Source: "debian", Flavor: "small"} },
		"a playbook":       func() { write(t, o.Playbooks, "node.yml", "- hosts: all\n") },
		"a program":        func() { write(t, o.Binaries, "plasmidd", "new") },
	} {
		change()
		if now := id(); now == last {
			t.Errorf("%s: the identity is the same", what)
		} else {
			last = now
		}
	}
	source.Name = "renamed"
	o.Config.Cloud.Source = "renamed"
	if id() != last {
		t.Error("the name of the source changed the identity")
	}
}
