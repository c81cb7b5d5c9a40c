package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted control group hierarchy.
type hierarchy struct {
	Dir     string // where it is mounted
	Unified bool   // version 2
	Options string // of version 1: what mounts it again
}

// hierarchies reads those of a /proc/PID/mountinfo.
func hierarchies(mountinfo string) []hierarchy {
	var found []hierarchy
	for s := bufio.NewScanner(strings.NewReader(mountinfo)); s.Scan(); {
		front, back, ok := strings.Cut(s.Text(), " - ")
		f, b := strings.Fields(front), strings.Fields(back)
		if !ok || len(f) < 5 || len(b) < 3 {
			continue
		}
		switch b[0] {
		case "cgroup2":
			found = append(found, hierarchy{Dir: f[4], Unified: true})
		case "cgroup":
			var options []string
			for _, o := range strings.Split(b[2], ",") {
				if o != "rw" && o != "ro" {
					options = append(options, o)
				}
			}
			if slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "name=") }) {
				options = append([]string{"none"}, options...)
			}
			found = append(found, hierarchy{Dir: f[4], Options: strings.Join(options, ",")})
		}
	}
	return found
}

func mountedHierarchies() ([]hierarchy, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	return hierarchies(string(content)), err
}

// enterCgroup moves this process into a directory of its own in every
// hierarchy, and makes that directory the root that it and its children see.
// What guests leave behind is then all below it.
func enterCgroup(name string) error {
	all, err := mountedHierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		dir := filepath.Join(h.Dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// A new cpuset is empty, and nobody may enter one that is.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if content, err := os.ReadFile(filepath.Join(h.Dir, f)); err == nil && !h.Unified {
				if err := os.WriteFile(filepath.Join(dir, f), content, 0o644); err != nil {
					return err
				}
			}
		}
		if err := weigh(dir); err != nil {
			return err
		}
		if err := join(dir); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	// In version 2, a group with processes can't hand controllers to those
	// below it, so the services are not in the root of what guests use.
	for _, h := range all {
		if !h.Unified {
			continue
		}
		dir := filepath.Join(h.Dir, name, "services")
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := join(dir); err != nil {
			return err
		}
	}
	return nil
}

// weigh gives a group the share of a busy host that ten processes have. By
// itself it has that of one, which is all that its forty would get together.
func weigh(dir string) error {
	for file, weight := range map[string]string{"cpu.shares": "10240", "cpu.weight": "1000"} { // versions 1 and 2
		path := filepath.Join(dir, file)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue // another controller's, or it is not on here
		}
		if err := os.WriteFile(path, []byte(weight), 0o644); err != nil {
			return fmt.Errorf("giving a control group its weight: %w", err)
		}
	}
	return nil
}

func join(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("entering a control group: %w", err)
	}
	return nil
}

// cgroupDirs are the directories of that name that exist.
func cgroupDirs(name string) ([]string, error) {
	all, err := mountedHierarchies()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, h := range all {
		dir := filepath.Join(h.Dir, name)
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// processesBelow are those in a control group and in all below it.
func processesBelow(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			content, _ := os.ReadFile(path)
			for line := range strings.FieldsSeq(string(content)) {
				if pid, err := strconv.Atoi(line); err == nil {
					pids = append(pids, pid)
				}
			}
		}
		return nil
	})
	return pids
}

// clearCgroup kills what is in a control group and removes it with all below
// it, until the deadline.
func clearCgroup(dir string, deadline time.Time) error {
	for {
		pids := processesBelow(dir)
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		err := removeCgroup(dir)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w (processes in it: %v)", err, pids)
		}
		// Nothing tells in both versions that a group is empty.
		time.Sleep(50 * time.Millisecond)
	}
}

func removeCgroup(dir string) error {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs) // the deepest first
	for _, d := range dirs {
		if err := unix.Rmdir(d); err != nil && err != unix.ENOENT {
			return &fs.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}
