package local

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Start boots a machine that does not run, and plugs one in that runs without
// a network. It returns when the machine begins to boot, which takes seconds.
func (p *Provider) Start(ctx context.Context, name string) error {
	m, err := p.load(name)
	if err != nil {
		return err
	}
	if !m.Complete {
		return fmt.Errorf("machine %s is only half made; complete it with: plasmid up", name)
	}
	if m.running() {
		return p.plug(ctx, m)
	}
	return p.spawn(ctx, m)
}

// PowerOff takes the power away: every process of the machine ends at once.
func (p *Provider) PowerOff(ctx context.Context, name string) error {
	m, err := p.load(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, powerOffTimeout)
	defer cancel()
	// First the supervisor, so that it does not see a crash, and with it what
	// it has started but has not yet put into the machine's cgroup.
	err = until(ctx, func() error {
		pid := m.supervisor()
		if pid == 0 {
			return nil
		}
		if group, err := syscall.Getpgid(pid); err == nil && group == pid {
			pid = -pid
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("ending the supervisor of machine %s: %w", name, err)
		}
		return fmt.Errorf("the supervisor of machine %s is still ending", name)
	})
	if err != nil {
		return err
	}
	return p.clear(ctx, m)
}

// Stop shuts a machine down as its power button would, and waits up to two
// minutes.
func (p *Provider) Stop(ctx context.Context, name string) error {
	m, err := p.load(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, shutDownTimeout)
	defer cancel()
	const (
		rtmin4 = syscall.Signal(34 + 4) // systemd(1): SIGRTMIN+4 powers off
		again  = 2 * time.Second        // a systemd that has just begun does not hear it
	)
	var asked time.Time
	err = until(ctx, func() error {
		if !m.running() {
			return nil
		}
		leader, err := m.leader()
		if err != nil {
			return err
		}
		if time.Since(asked) > again {
			asked = time.Now()
			if err := syscall.Kill(leader, rtmin4); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		return fmt.Errorf("machine %s is still shutting down", name)
	})
	if err != nil {
		return fmt.Errorf("%w; take the power away with: plasmid local power-off %s", err, name)
	}
	return nil
}

// Exec returns a command that runs in a machine, as root, for tests and for a
// look inside.
func (p *Provider) Exec(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	m, err := p.load(name)
	if err != nil {
		return nil, err
	}
	leader, err := m.leader()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"}, args...)...)
	cmd.Env = environment
	return cmd, nil
}
