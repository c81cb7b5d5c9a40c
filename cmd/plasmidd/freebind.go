package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// freeBind lets a listener have an address that the machine does not have yet.
func freeBind(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }); cerr != nil {
		return cerr
	}
	return err
}
