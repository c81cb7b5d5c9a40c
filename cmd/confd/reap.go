package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// reap runs confd as a child and does what the first process of a container
// must: hand signals on and collect every process that ends. It returns the
// child's exit code.
func reap() int {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	// Of these one that waits stands for all, so that none can be lost.
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "confd:", err)
		return 1
	}
	for {
		select {
		case <-ended:
			if code, ended := collect(cmd.Process.Pid); ended {
				return code
			}
		case s := <-signals:
			if s != syscall.SIGCHLD && s != syscall.SIGURG { // the latter is Go's own
				_ = cmd.Process.Signal(s)
			}
		}
	}
}

// collect waits for all processes that have ended, and reports the exit code
// of pid if it is one of them.
func collect(pid int) (code int, ended bool) {
	for {
		var status syscall.WaitStatus
		p, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || p <= 0 {
			return code, ended
		}
		if p == pid {
			code, ended = status.ExitStatus(), true
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
		}
	}
}
