package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultDir holds everything of all labs of this host.
const defaultDir = "/var/lib/plasmid-lab"

// site is where one lab lives:
//
//	DIR/cache/tree-HASH    packages
//	DIR/cache/setup-HASH   what setting up has changed in them
//	DIR/labs/NAME          a lab that is up: its files go with it
type site struct {
	dir, name string
}

var nameRule = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

func newSite(dir, name string) (site, error) {
	if !nameRule.MatchString(name) {
		return site{}, fmt.Errorf("bad name %q of a lab: a letter, then letters, digits and dashes, all lower-case", name)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return site{}, err
	}
	// They are separators in the options of an overlay mount.
	if strings.ContainsAny(abs, ":,\\") {
		return site{}, fmt.Errorf("the directory %s has a colon, comma or backslash in its name, which overlay mounts can't have; choose another with --dir", abs)
	}
	return site{dir: abs, name: name}, nil
}

func (s site) cache() string  { return filepath.Join(s.dir, "cache") }
func (s site) home() string   { return filepath.Join(s.dir, "labs", s.name) }
func (s site) state() string  { return filepath.Join(s.home(), "state") }
func (s site) clouds() string { return filepath.Join(s.home(), "clouds.yaml") }

// cgroup names the control groups of the lab, on a host where another user
// may have a lab of the same name elsewhere.
func (s site) cgroup() string {
	return "plasmid-lab-" + s.name + "-" + short(s.dir)
}

// short is a hash for file names.
func short(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// lock keeps others from the lab, or from the cache, until the file is closed.
func lock(path, what string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	for waited := false; ; {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == unix.EWOULDBLOCK {
			if !waited {
				fmt.Fprintf(os.Stderr, "waiting for another command that uses %s\n", what)
				waited = true
			}
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// The other may have removed the file, and a third made a new one.
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(mine, now) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// lock keeps other commands from this lab.
func (s site) lock() (*os.File, error) {
	return lock(filepath.Join(s.dir, "labs", s.name+".lock"), "the lab "+s.name)
}

// process1 is the lab's first process, as it is seen from the host; 0 if it
// isn't running.
func (s site) process1() int {
	content, err := os.ReadFile(filepath.Join(s.home(), "pid"))
	if err != nil {
		return 0
	}
	var pid int
	var began string
	if _, err := fmt.Sscan(string(content), &pid, &began); err != nil {
		return 0
	}
	// Process numbers are used again: another one began at another time.
	if now, err := beganAt(pid); err != nil || now != began {
		return 0
	}
	return pid
}

func (s site) keepProcess1(pid int) error {
	began, err := beganAt(pid)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.home(), "pid"), fmt.Appendf(nil, "%d %s\n", pid, began), 0o600)
}

// beganAt is when a process began, in ticks since this host's boot; an error
// if it has ended.
func beganAt(pid int) (string, error) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// After the name, which may hold anything, there are 19 fields before it
	// (proc(5)).
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return "", fs.ErrNotExist
	}
	return fields[19], nil
}

// status reads what the lab says of itself.
func (s site) status() (status, error) {
	var st status
	content, err := os.ReadFile(filepath.Join(s.state(), "status.json"))
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(content, &st)
}
