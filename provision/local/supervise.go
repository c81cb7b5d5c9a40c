package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startTimeout    = 30 * time.Second // until a supervisor has made what its machine needs
	powerOffTimeout = 30 * time.Second // until the kernel has ended every process of a machine
	shutDownTimeout = 2 * time.Minute  // until systemd in a machine has stopped all services
)

// rebooted is the exit code of systemd-nspawn when the machine asked for a
// reboot and nobody but us is there to do it.
const rebooted = 133

// reportFD is where a supervisor says whether its machine starts: "ok", or what
// is wrong.
const reportFD = 3

// environment is that of everything that runs on behalf of a machine. The
// operator's own may hold secrets, and would live on with the machine.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "LANG=C.UTF-8", "TERM=linux",
}

// spawn starts a machine's supervisor and waits until it says that the machine
// boots.
func (p *Provider) spawn(ctx context.Context, m *machine) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	log, err := os.OpenFile(p.consoleLog(m.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// A session of its own, and no pipe of ours but the one that it closes:
	// it outlives this command.
	cmd := exec.Command(p.self, "local", "supervise", m.dir)
	cmd.Dir, cmd.Env = "/", environment
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	go cmd.Wait() // collects it, should it end before us
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	defer stop()
	answer, err := io.ReadAll(r)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case string(answer) == "ok":
		return nil
	case len(answer) == 0:
		return fmt.Errorf("machine %s did not start; the reason is in %s", m.Name, p.consoleLog(m.Name))
	}
	return errors.New(string(answer))
}

// Supervise runs the machine that lives in dir until it powers off, and boots
// it again when it reboots. It is a process of its own for each machine, and
// it alone holds the machine's lock. When ctx ends it shuts the machine down.
func Supervise(ctx context.Context, dir string) error {
	p, m, err := open(dir)
	if err != nil {
		return err
	}
	unix.CloseOnExec(reportFD)
	report := os.NewFile(reportFD, "report")
	defer report.Close()
	lock, err := m.lock()
	if errors.Is(err, errLocked) {
		_, err := report.WriteString("ok") // somebody was faster
		return err
	}
	if err != nil {
		return err
	}
	defer lock.Close()

	err = p.prepare(ctx, m)
	if err != nil {
		report.WriteString(err.Error())
		return errors.Join(err, p.clear(ctx, m))
	}
	if _, err := report.WriteString("ok"); err != nil {
		fmt.Fprintln(os.Stderr, "plasmid: nobody waits any more for machine", m.Name)
	}
	report.Close()
	for {
		err := p.boot(ctx, m)
		var exit *exec.ExitError
		if ctx.Err() == nil && errors.As(err, &exit) && exit.ExitCode() == rebooted {
			if err = p.prepare(ctx, m); err == nil {
				continue
			}
		}
		return errors.Join(err, p.clear(ctx, m))
	}
}

// prepare gives the machine a new network namespace, as a reboot would reset
// what is in it, and leaves nothing of an earlier run.
func (p *Provider) prepare(ctx context.Context, m *machine) error {
	if _, err := os.Stat(filepath.Join(m.dir, "tree")); err != nil {
		return fmt.Errorf("image %s of machine %s is missing: %w; build it with: plasmid image build, then take the machine down and up again", m.Image, m.Name, err)
	}
	if err := p.clear(ctx, m); err != nil {
		return err
	}
	return p.plug(ctx, m)
}

// clear ends everything of the machine that still runs, and takes away its
// cgroups and its network: nobody answers in its name while it is off.
func (p *Provider) clear(ctx context.Context, m *machine) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), powerOffTimeout)
	defer cancel()
	if err := killGroup(ctx, p.group(m)); err != nil {
		return err
	}
	return p.unplug(ctx, m.Index)
}

// boot runs the machine once.
func (p *Provider) boot(ctx context.Context, m *machine) error {
	script := bootUnified
	if hybridHost() {
		script = bootHybrid
	}
	// Go's own way to a mount namespace makes a private one; see nspawn.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "slave", "sh", "-euc", script, "sh")
	cmd.Env = append(environment[:len(environment):len(environment)],
		"DIR="+m.dir, "NS="+nsPath(p.machineNS(m.Index)), "GROUP="+p.group(m), "NAME="+m.Name, "UUID="+m.UUID,
		fmt.Sprintf("MEMORY=%d", m.MemoryMiB<<20), fmt.Sprintf("QUOTA=%d", int(m.CPUs*100000)),
		fmt.Sprintf("CPUS=%d", int(m.CPUs*100)),
	)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// systemd-nspawn takes it for a request to shut the machine down.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = shutDownTimeout
	return cmd.Run()
}

// errLocked says that the machine has a supervisor.
var errLocked = errors.New("the machine's supervisor runs")

func (m *machine) lockFile() string { return filepath.Join(m.dir, "lock") }

// lock makes this process the machine's supervisor for as long as it lives or
// until the file is closed.
func (m *machine) lock() (*os.File, error) {
	f, err := os.OpenFile(m.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = errLocked
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// supervisor returns the PID of the machine's supervisor, 0 if it has none.
// The kernel knows who holds the lock, so no other process is taken for it,
// after whatever crash.
func (m *machine) supervisor() int {
	f, err := os.Open(m.lockFile())
	if err != nil {
		return 0
	}
	defer f.Close()
	holder := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &holder); err != nil || holder.Type == unix.F_UNLCK {
		return 0
	}
	return int(holder.Pid)
}

func (m *machine) running() bool { return m.supervisor() != 0 }

// leader returns the PID of the machine's own PID 1.
func (m *machine) leader() (int, error) {
	pid := m.supervisor()
	if pid == 0 {
		return 0, fmt.Errorf("machine %s does not run; start it with: plasmid local power-on %s", m.Name, m.Name)
	}
	// The supervisor's child is systemd-nspawn, whose child is the leader.
	for _, nspawn := range children(pid) {
		for _, pid := range children(nspawn) {
			if isInit(pid) {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("machine %s is just starting or stopping; try again in a moment", m.Name)
}

// children lists the children of a process, of all its threads.
func children(pid int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, f := range files {
		data, _ := os.ReadFile(f) // the process may end meanwhile
		for _, w := range strings.Fields(string(data)) {
			var pid int
			if _, err := fmt.Sscan(w, &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// isInit reports whether a process is the first one of a PID namespace below
// ours.
func isInit(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			w := strings.Fields(pids)
			return len(w) > 1 && w[len(w)-1] == "1"
		}
	}
	return false
}
