package image

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"plasmid/provision/config"
)

// store makes images that exist in name only; the last one is the newest.
func store(t *testing.T, ids ...string) string {
	t.Helper()
	state := t.TempDir()
	for n, id := range ids {
		dir := filepath.Join(imagesDir(state), id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		m := Manifest{ID: id, Created: time.Date(2026, 1, 1+n, 0, 0, 0, 0, time.UTC)}
		if err := writeJSON(filepath.Join(dir, "manifest.json"), m); err != nil {
			t.Fatal(err)
		}
	}
	return state
}

func ids(t *testing.T, state string) []string {
	t.Helper()
	images, err := List(state)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range images {
		out = append(out, i.ID)
	}
	return out
}

func TestListAndByID(t *testing.T) {
	state := store(t, "aa11", "ab22", "cc33")
	if err := os.Mkdir(filepath.Join(imagesDir(state), ".build-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, state); !slices.Equal(got, []string{"cc33", "ab22", "aa11"}) {
		t.Errorf("listed %v", got)
	}
	for id, says := range map[string]string{"cc": "", "a": "2 images begin with a", "d": "there is no image d", "": "is no image ID", "../x": "is no image ID", "*": "is no image ID"} {
		_, err := ByID(state, id)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%q: %v, expected %q", id, err, says)
		}
	}
	if err := os.WriteFile(filepath.Join(imagesDir(state), "cc33", "manifest.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ByID(state, "cc33"); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged image: %v", err)
	}
}

func TestNoImages(t *testing.T) {
	state := t.TempDir()
	if got := ids(t, state); len(got) != 0 {
		t.Errorf("listed %v", got)
	}
	if _, err := Latest(state); !errors.Is(err, ErrNone) {
		t.Errorf("latest: %v", err)
	}
}

// Every image block has a latest image of its own.
func TestFor(t *testing.T) {
	state := store(t, "one", "two")
	block := func(vars map[string]any, playbooks ...string) Options {
		return Options{State: state, Dir: "/site", Playbooks: "/base", Config: config.Image{Vars: vars, Playbooks: playbooks}}
	}
	plain, other := block(nil), block(map[string]any{"a": "b"})
	for o, id := range map[*Options]string{&plain: "one", &other: "two"} {
		if err := markLatest(state, id, o.link()); err != nil {
			t.Fatal(err)
		}
	}
	for o, id := range map[*Options]string{&plain: "one", &other: "two"} {
		if i, err := For(*o); err != nil || i.ID != id {
			t.Errorf("%v: %v, %v", o.Config, i, err)
		}
	}
	if _, err := For(block(nil, "site.yml")); err == nil || !strings.Contains(err.Error(), "plasmid image build") {
		t.Errorf("an image block that was never built: %v", err)
	}
}

func TestPrune(t *testing.T) {
	state := store(t, "a", "b", "c", "d", "e", "f")
	if err := markLatest(state, "a", ".latest"); err != nil {
		t.Fatal(err)
	}
	removed, err := Prune(state, 2, func(id string) bool { return id == "c" })
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(removed, []string{"d", "b"}) {
		t.Errorf("removed %v", removed)
	}
	if got := ids(t, state); !slices.Equal(got, []string{"f", "e", "c", "a"}) {
		t.Errorf("left %v", got)
	}
}

func TestIdentity(t *testing.T) {
	playbooks, binaries := t.TempDir(), t.TempDir()
	write(t, playbooks, "node.yml", "- hosts: all\n")
	write(t, playbooks, "roles/base/tasks/main.yml", "[]\n")
	for _, p := range Programs {
		write(t, binaries, p, "x")
	}
	packages := []Package{{Name: "systemd", Version: "259-1"}}
	cfg := config.Image{Vars: map[string]any{"a": "b"}}
	id := func() string {
		t.Helper()
		s, err := identity(packages, cfg, []string{filepath.Join(playbooks, "node.yml")}, binaries)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	last := id()
	if id() != last {
		t.Error("the same input has two identities")
	}
	for what, change := range map[string]func(){
		"a role's file":     func() { write(t, playbooks, "roles/base/tasks/main.yml", "- debug:\n") },
		"a new role":        func() { write(t, playbooks, "roles/more/tasks/main.yml", "[]\n") },
		"a program":         func() { write(t, binaries, "plasmid", "y") },
		"a package version": func() { packages[0].Version = "259-2" },
		"a variable":        func() { cfg.Vars = map[string]any{"a": "c"} },
		"the size":          func() { cfg.DiskGiB = 8 },
	} {
		change()
		if now := id(); now == last {
			t.Errorf("%s changed, the identity did not", what)
		} else {
			last = now
		}
	}
	write(t, binaries, "another", "x") // that is in no image
	if id() != last {
		t.Error("a program that is in no image changed the identity")
	}
}

func TestHostPolicy(t *testing.T) {
	dump := `APT::Architecture "amd64";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::Proxy "";
Acquire::Check-Valid-Until "false";
`
	targets := "http://mirror.example/debian contrib\nhttp://mirror.example/debian main\nhttp://other.example/debian main\n"
	p := parsePolicy([]byte(dump), []byte(targets))
	if p.Mirror != "http://mirror.example/debian" {
		t.Errorf("mirror %q", p.Mirror)
	}
	want := []string{`Acquire::http::Proxy "http://proxy.example:3128";`, `Acquire::Check-Valid-Until "false";`}
	if !slices.Equal(p.Options, want) {
		t.Errorf("options %q", p.Options)
	}
	yes := true
	p.override(config.Image{Mirror: "http://mine.example/debian", Proxy: "http://p.example", CheckValidUntil: &yes})
	want = []string{`Acquire::http::Proxy "http://p.example";`, `Acquire::https::Proxy "http://p.example";`, `Acquire::Check-Valid-Until "true";`}
	if p.Mirror != "http://mine.example/debian" || !slices.Equal(p.Options, want) {
		t.Errorf("overridden: %+v", p)
	}
}
