package reboot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Debian's files. A package whose upgrade takes effect at the next boot only
// (the kernel, libc, systemd) touches the first one and adds its name to the
// second; unattended-upgrades sees to it, and reboots by them if told to.
const (
	requiredFile = "run/reboot-required"
	packagesFile = "run/reboot-required.pkgs"
	dpkgLock     = "var/lib/dpkg/lock-frontend"
)

// Host is the system of a machine, seen below Root ("/").
type Host struct{ Root string }

// Required reports whether the system asks for a reboot, and for the sake of
// which packages.
func (h Host) Required() (bool, []string, error) {
	if _, err := os.Stat(filepath.Join(h.Root, requiredFile)); errors.Is(err, fs.ErrNotExist) {
		return false, nil, nil
	} else if err != nil {
		return false, nil, err
	}
	data, err := os.ReadFile(filepath.Join(h.Root, packagesFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, nil, err
	}
	packages := strings.Fields(string(data))
	slices.Sort(packages)
	return true, slices.Compact(packages), nil
}

// Busy says what a reboot would break off: packages that are being installed.
// Empty is nothing.
func (h Host) Busy() (string, error) {
	f, err := os.Open(filepath.Join(h.Root, dpkgLock))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	// Asked for only, never taken: dpkg would fail if it were.
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return "", err
	}
	if lock.Type == unix.F_UNLCK {
		return "", nil
	}
	return "packages are being installed", nil
}
