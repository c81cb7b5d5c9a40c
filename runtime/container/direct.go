package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// containersDir is where Docker keeps its containers.
const containersDir = "/var/lib/docker/containers"

// Kill ends a container at once without asking Docker, which may hang: with its
// first process the kernel ends all others. That it does not run is no error.
func Kill(name string) error {
	fd, err := first(name)
	if err == nil && fd >= 0 {
		defer unix.Close(fd)
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing container %s: %w", name, err)
	}
	return nil
}

// Runs reports whether a container runs, without asking Docker.
func Runs(name string) (bool, error) {
	fd, err := first(name)
	if fd >= 0 {
		unix.Close(fd)
	}
	return fd >= 0, err
}

// first opens a container's first process; -1 if it does not run.
func first(name string) (fd int, err error) {
	files, err := filepath.Glob(filepath.Join(containersDir, "*", "config.v2.json"))
	if err != nil {
		return -1, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return -1, err
		}
		var c struct {
			ID, Name string
			State    struct{ Pid int }
		}
		if err := json.Unmarshal(data, &c); err != nil {
			return -1, fmt.Errorf("%s: %w", file, err)
		}
		if strings.TrimPrefix(c.Name, "/") != name || c.State.Pid == 0 {
			continue
		}
		fd, err := unix.PidfdOpen(c.State.Pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return -1, err
		}
		// Docker may not have noted the end yet, and the number be another's.
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.State.Pid))
		if err == nil && strings.Contains(string(groups), c.ID) {
			return fd, nil
		}
		unix.Close(fd)
	}
	return -1, nil
}
