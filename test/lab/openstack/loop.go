package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// loopDevices are those whose files are in the file system of that number.
// Nova sets them up for containers' disks; they outlive every process.
func loopDevices(fs uint64) ([]string, error) {
	if fs == 0 {
		return nil, nil
	}
	inUse, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, l := range inUse {
		device := "/dev/" + filepath.Base(filepath.Dir(l))
		f, err := os.Open(device)
		if err != nil {
			return nil, err
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		f.Close()
		// One may go between two looks.
		if err == nil && info.Device == fs {
			found = append(found, device)
		}
	}
	return found, nil
}

// clearLoops detaches the lab's loop devices.
func clearLoops(fs uint64) error {
	devices, err := loopDevices(fs)
	if err != nil {
		return err
	}
	for _, device := range devices {
		f, err := os.Open(device)
		if err != nil {
			return err
		}
		err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("detaching %s: %w", device, err)
		}
	}
	return nil
}

// fileSystem is the number of the file system that the lab's tree is; 0 if
// the lab never had one. As long as it has a loop device, no other file
// system has this number; after that one may, so the labs that are up keep
// theirs.
func (s site) fileSystem() uint64 {
	own, err := s.status()
	if err != nil {
		return 0
	}
	all, _ := filepath.Glob(filepath.Join(s.dir, "labs", "*", "pid"))
	for _, f := range all {
		other := site{dir: s.dir, name: filepath.Base(filepath.Dir(f))}
		if other.name == s.name || other.process1() == 0 {
			continue
		}
		if st, err := other.status(); err == nil && st.FileSystem == own.FileSystem {
			return 0
		}
	}
	return own.FileSystem
}

// device is the number of the file system that a directory is in.
func device(dir string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	return uint64(st.Dev), err
}
