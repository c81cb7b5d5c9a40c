package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"plasmid/image"
	"plasmid/internal/progress"
	"plasmid/test/lab/openstack/conf"
)

// layers are the parts of a lab's tree that labs share and never change.
type layers struct {
	tree, setup string
	password    string
}

// treeHash names the tree of packages, and setupHash what is made of it.
func treeHash() string  { return short(append([]string{suite}, packages...)...) }
func setupHash() string { return short(treeHash(), conf.Hash(), setupVersion) }

// ensureLayers makes what the cache hasn't got. What was interrupted before
// is removed and made again.
func (s site) ensureLayers(ctx context.Context, log *progress.Log) (layers, error) {
	held, err := lock(filepath.Join(s.dir, "cache.lock"), "the cache")
	if err != nil {
		return layers{}, err
	}
	defer held.Close()
	l := layers{tree: filepath.Join(s.cache(), "tree-"+treeHash()), setup: filepath.Join(s.cache(), "setup-"+setupHash())}
	if err := os.MkdirAll(s.cache(), 0o700); err != nil {
		return l, err
	}
	if err := s.clearPartial(); err != nil {
		return l, err
	}
	err = whole(l.tree, func(partial string) error {
		t := log.Start("tree of Debian packages (once, about two minutes)")
		err := image.Base(ctx, t, partial, suite, packages)
		if err == nil {
			err = capTranslation(partial)
		}
		t.Done(err)
		return err
	})
	if err != nil {
		return l, err
	}
	err = whole(l.setup, func(partial string) error {
		t := log.Start("databases and catalogue (once, about two minutes)")
		err := s.setUp(ctx, t, l.tree, partial)
		t.Done(err)
		return err
	})
	if err != nil {
		return l, err
	}
	password, err := os.ReadFile(filepath.Join(l.setup, "password"))
	l.password = string(password)
	return l, err
}

// whole makes a directory that is either complete or not there.
func whole(dir string, fill func(partial string) error) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	partial := dir + ".partial"
	if err := os.MkdirAll(partial, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(partial, 0o755); err != nil { // the root directory of a tree
		return err
	}
	if err := fill(partial); err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	return os.Rename(partial, dir)
}

func (s site) clearPartial() error {
	left, err := filepath.Glob(filepath.Join(s.cache(), "*.partial"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// capTranslation puts a program before QEMU that keeps what it has translated
// of a guest's code within 192 MiB. Its own default is 1 GiB for each guest,
// which many guests that emulate can't have, and libvirt has no setting.
func capTranslation(tree string) error {
	program := filepath.Join(tree, "usr/bin/qemu-system-x86_64")
	if err := os.Rename(program, program+".real"); err != nil {
		return err
	}
	return os.WriteFile(program, []byte(`#!/bin/bash
args=()
for a; do
	[ "$a" = tcg ] && a=tcg,tb-size=192
	args+=("$a")
done
exec -a "$0" /usr/bin/qemu-system-x86_64.real "${args[@]}"
`), 0o755)
}

// setUp runs a lab once, to fill its databases.
func (s site) setUp(ctx context.Context, t *progress.Task, tree, partial string) error {
	password := rand.Text()
	if err := os.WriteFile(filepath.Join(partial, "password"), []byte(password), 0o600); err != nil {
		return err
	}
	once := site{dir: s.dir, name: s.name + "-setup"}
	if err := once.clear(ctx); err != nil {
		return err
	}
	o := order{Lower: []string{tree}, Upper: filepath.Join(partial, "upper"), Setup: true,
		Settings: conf.Settings{Tier: conf.Fake, Password: password}}
	err := once.run(ctx, o, func(e event) { t.Update("%s", e.Service) })
	if err != nil {
		// The logs are what explains it; the next attempt removes them.
		_, kerr := once.kill()
		return errors.Join(fmt.Errorf("%w\nall logs are in %s", err, once.state()), kerr)
	}
	return once.clear(ctx)
}

// prune removes what no version of this program that is in use has made.
func (s site) prune() error {
	held, err := lock(filepath.Join(s.dir, "cache.lock"), "the cache")
	if err != nil {
		return err
	}
	defer held.Close()
	entries, err := os.ReadDir(s.cache())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	keep := []string{"tree-" + treeHash(), "setup-" + setupHash()}
	for _, e := range entries {
		old := strings.HasPrefix(e.Name(), "tree-") || strings.HasPrefix(e.Name(), "setup-")
		if old && !slices.Contains(keep, e.Name()) && !s.inUse(e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.cache(), e.Name())))
		}
	}
	return err
}
