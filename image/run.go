package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"plasmid/internal/progress"
)

// installedTool returns an error with the next step if a program is missing.
func installedTool(name string) error {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%s is not installed; run: make deps", name)
	}
	return nil
}

// run executes a program and everything it starts in a process group, which
// ends with ctx. stdin may be nil. Its output's last lines are shown as the
// task's detail; if it fails they are in the error.
func run(ctx context.Context, t *progress.Task, env []string, stdin string, name string, args ...string) error {
	return runIn(ctx, t, env, stdin, false, nil, name, args...)
}

// runIn is run, with a mount namespace of its own if asked, and with every
// line of output handed to see.
func runIn(ctx context.Context, t *progress.Task, env []string, stdin string, ownMounts bool, see func(string), name string, args ...string) error {
	if err := installedTool(name); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if ownMounts {
		// Mounts that the program makes go when its last process does.
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	var last tail
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := bufio.NewScanner(r)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			line := strings.TrimRight(s.Text(), " \r")
			if line == "" {
				continue
			}
			last.add(line)
			if see != nil {
				see(line)
			} else {
				t.Update("%s", line)
			}
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	err := cmd.Run()
	w.Close()
	<-done
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		if cmd.Process != nil { // else ctx ended before it was begun
			// What the program did not end itself may not go on.
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		return ctx.Err()
	case errors.Is(err, syscall.ENOSPC) || last.has("No space left on device"):
		return fmt.Errorf("%s: no space left on the disk; make room (plasmid image prune) and run the build again", name)
	}
	return fmt.Errorf("%s: %w; its last words:\n%s", name, err, last.String())
}

// tail keeps the last lines of an output.
type tail struct{ lines []string }

const tailLines = 20

func (t *tail) add(line string) {
	t.lines = append(t.lines, line)
	if len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
}

func (t *tail) has(s string) bool { return strings.Contains(strings.Join(t.lines, "\n"), s) }

func (t *tail) String() string { return "  " + strings.Join(t.lines, "\n  ") }
