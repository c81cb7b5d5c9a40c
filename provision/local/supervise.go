package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Start boots a machine that does not run. It returns when its supervisor
// does; the machine takes seconds more.
func (p *Provider) Start(ctx context.Context, name string) error {
	m, err := p.load(name)
	if err != nil {
		return err
	}
	if m.running() {
		return nil
	}
	if err := killGroup(ctx, p.group(m)); err != nil {
		return err
	}
	if err := p.plug(ctx, m); err != nil {
		return err
	}
	log, err := os.OpenFile(p.consoleLog(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// A session of its own, and no pipe of ours: it outlives this command.
	cmd := exec.Command(p.self, "local", "supervise", m.dir, p.machineNS(m.Index), p.group(m))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return errors.Join(m.savePID(cmd.Process.Pid), cmd.Process.Release())
}

func (p *Provider) consoleLog(name string) string {
	return filepath.Join(p.machineDir(name), "console.log")
}

// process names a process so that another one with the same number is not
// taken for it.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // since boot, in clock ticks
	Boot  string `json:"boot"`
}

func (m *machine) pidFile() string { return filepath.Join(m.dir, "pid.json") }

func (m *machine) savePID(pid int) error {
	return writeJSON(m.pidFile(), process{pid, startTime(pid), bootID()})
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// startTime is field 22 of /proc/<pid>/stat, empty if there is no such process
// or if it has ended and only waits to be collected. See proc(5).
func startTime(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name, in parentheses, may hold anything.
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// supervisor returns the PID of the machine's supervisor, 0 if it has none.
func (m *machine) supervisor() int {
	var pr process
	data, err := os.ReadFile(m.pidFile())
	if err != nil || json.Unmarshal(data, &pr) != nil {
		return 0
	}
	if pr.PID == 0 || pr.Start == "" || pr.Boot != bootID() || startTime(pr.PID) != pr.Start {
		return 0
	}
	return pr.PID
}

func (m *machine) running() bool { return m.supervisor() != 0 }

// leader returns the PID of the machine's own PID 1.
func (m *machine) leader() (int, error) {
	pid := m.supervisor()
	if pid == 0 {
		return 0, fmt.Errorf("machine %s does not run; start it with: plasmid up", m.Name)
	}
	// The supervisor's child is systemd-nspawn, whose child is the leader.
	for range 2 {
		next, err := child(pid)
		if err != nil {
			return 0, fmt.Errorf("machine %s is just starting or stopping: %w", m.Name, err)
		}
		pid = next
	}
	return pid, nil
}

// child returns the only child of a process, over all its threads.
func child(pid int) (int, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if fields := strings.Fields(string(data)); len(fields) > 0 {
			return strconv.Atoi(fields[0])
		}
	}
	return 0, fmt.Errorf("process %d has no child", pid)
}

// PowerOff takes the power away: every process of the machine ends at once.
func (p *Provider) PowerOff(ctx context.Context, name string) error {
	m, err := p.load(name)
	if err != nil {
		return err
	}
	// First the supervisor, so that it does not see a crash.
	if pid := m.supervisor(); pid != 0 {
		kill(pid, syscall.SIGKILL)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := killGroup(ctx, p.group(m)); err != nil {
		return err
	}
	if err := os.Remove(m.pidFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// The namespace keeps the machine's address: without a machine in it, it
	// would go on to refuse connections, which only the living do.
	return p.unplug(ctx, m.Index)
}

// Stop shuts a machine down as its power button would, and waits.
func (p *Provider) Stop(ctx context.Context, name string) error {
	m, err := p.load(name)
	if err != nil {
		return err
	}
	leader, err := m.leader()
	if err != nil {
		return err
	}
	const rtmin4 = syscall.Signal(34 + 4) // systemd(1): SIGRTMIN+4 powers off
	if err := syscall.Kill(leader, rtmin4); err != nil {
		return err
	}
	return until(ctx, func() error {
		if m.running() {
			return fmt.Errorf("machine %s is still shutting down", name)
		}
		return nil
	})
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
	return exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"}, args...)...), nil
}

// rebooted is the exit code of systemd-nspawn when the machine asked for a
// reboot and nobody but us is there to do it.
const rebooted = 133

// Supervise runs a machine until it powers off, and boots it again when it
// reboots. It is a process of its own for each machine.
func Supervise(ctx context.Context, dir, ns, group string) error {
	m := &machine{dir: dir}
	data, err := os.ReadFile(filepath.Join(dir, "machine.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, m); err != nil {
		return err
	}
	for {
		err := m.boot(ctx, ns, group)
		// As above: nobody answers in a machine's name while it is off.
		if derr := ip(ctx, "-n "+ns+" link set host0 down"); derr != nil && exists(nsPath(ns)) {
			fmt.Fprintln(os.Stderr, derr)
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != rebooted {
			return err
		}
		if err := killGroup(ctx, group); err != nil {
			return err
		}
	}
}

func (m *machine) boot(ctx context.Context, ns, group string) error {
	script, args := bootUnified, []string{}
	if hybridHost() {
		script = bootHybrid
	}
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Env = append(os.Environ(),
		"DIR="+m.dir, "NS="+nsPath(ns), "GROUP="+group, "NAME="+m.Name, "UUID="+m.UUID,
		fmt.Sprintf("MEMORY=%d", m.MemoryMiB<<20), fmt.Sprintf("QUOTA=%d", int(m.CPUs*100000)),
		fmt.Sprintf("CPUS=%d", int(m.CPUs*100)),
	)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd.Run()
}
