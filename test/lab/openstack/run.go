package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"plasmid/internal/progress"
	"plasmid/test/lab/openstack/conf"
)

// insideCommand is the command of process 1.
const insideCommand = "inside"

// run starts process 1 with its order and hands on what it says, until it
// says that it is done. The site's directory is made; an error leaves the
// logs in it and perhaps processes.
func (s site) run(ctx context.Context, o order, see func(event)) error {
	o.Cgroup, o.State, o.Root, o.Work = s.cgroup(), s.state(), filepath.Join(s.home(), "root"), o.Upper+".work"
	for _, dir := range []string{s.home(), o.State, o.Root, o.Upper, o.Work} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// Services that aren't root look for their files below it.
	for _, dir := range []string{o.Root, o.Upper, o.State} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	told, err := os.CreateTemp(s.home(), "order")
	if err != nil {
		return err
	}
	defer told.Close()
	if err := errors.Join(os.Remove(told.Name()), json.NewEncoder(told).Encode(o)); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(s.state(), "process1.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	heard, said, err := os.Pipe()
	if err != nil {
		return err
	}
	defer heard.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, insideCommand, "enter")
	cmd.Env = append([]string{"HOME=/root"}, environment...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{told, said} // orderFD, eventFD
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
	}
	err = cmd.Start()
	said.Close()
	if err != nil {
		return fmt.Errorf("starting the lab in namespaces of its own: %w", err)
	}
	pid := cmd.Process.Pid
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	if err := s.keepProcess1(pid); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		heard.Close()
	})
	defer stop()
	err = follow(heard, see)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		<-ended
		content, _ := os.ReadFile(out.Name())
		return &failure{Service: "process 1 of the lab", What: "ended early", Last: lastWords(string(content), 12)}
	case err == nil && o.Setup:
		<-ended
	}
	return err
}

// follow reads events until one says that all is done (nil) or that something
// failed. io.EOF: neither.
func follow(r io.Reader, see func(event)) error {
	for d := json.NewDecoder(r); ; {
		var e event
		if err := d.Decode(&e); err != nil {
			return err
		}
		switch {
		case e.Failure != nil:
			return e.Failure
		case e.Error != "":
			return errors.New(e.Error)
		case e.Done:
			return nil
		}
		see(e)
	}
}

// kill ends every process of the lab and removes its control groups and loop
// devices. It says how many processes there were.
func (s site) kill() (int, error) {
	disks := s.fileSystem()
	// Everything else in its process namespace ends with process 1.
	if pid := s.process1(); pid != 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	dirs, err := cgroupDirs(s.cgroup())
	if err != nil {
		return 0, err
	}
	pids := map[int]bool{}
	deadline := time.Now().Add(30 * time.Second)
	for _, dir := range dirs {
		for _, pid := range processesBelow(dir) {
			pids[pid] = true
		}
		err = errors.Join(err, clearCgroup(dir, deadline))
	}
	return len(pids), errors.Join(err, clearLoops(disks))
}

// clear takes the lab down: its processes, and its files.
func (s site) clear(context.Context) error {
	if _, err := s.kill(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.home()); err != nil {
		return fmt.Errorf("removing the files of the lab: %w", err)
	}
	return nil
}

// leftovers are what is still there of the lab, for people. Its networks are
// in namespaces that live as long as its processes do; nothing of the lab has
// a name in the host's.
func (s site) leftovers() ([]string, error) {
	var left []string
	dirs, err := cgroupDirs(s.cgroup())
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		left = append(left, "control group "+d)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == s.home() || strings.HasPrefix(f[4], s.home()+"/")) {
			left = append(left, "mount "+f[4])
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		// Seen from here, the lab's processes have its tree as root, mounted
		// in a namespace that a process alone can keep alive.
		info, err := os.ReadFile(filepath.Join(p, "mountinfo"))
		if err == nil && strings.Contains(string(info), "upperdir="+s.upper()+",") {
			left = append(left, "process "+filepath.Base(p))
		}
	}
	if _, err := os.Stat(s.home()); !errors.Is(err, fs.ErrNotExist) {
		left = append(left, "directory "+s.home())
	}
	return left, nil
}

func (s site) upper() string { return filepath.Join(s.home(), "upper") }

// up brings the lab up, unless it is.
func (s site) up(ctx context.Context, log *progress.Log, tier conf.Tier, kvm bool) error {
	held, err := s.lock()
	if err != nil {
		return err
	}
	defer held.Close()
	if st, err := s.status(); err == nil && s.process1() != 0 && st.Ready {
		if bad := st.ended(); len(bad) > 0 {
			return fmt.Errorf("the lab is up, but %s; see %s, or take it down", strings.Join(bad, ", "), s.state())
		}
		if st.Tier != string(tier) {
			return fmt.Errorf("the lab is up with tier %s; take it down before bringing it up with %s", st.Tier, tier)
		}
		log.Printf("the lab is up already (tier %s)", tier)
		return nil
	}
	l, err := s.ensureLayers(ctx, log)
	if err != nil {
		return err
	}
	// Of an attempt that was cut off.
	if err := s.clear(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(s.home(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.home(), "layers"), fmt.Appendf(nil, "%s\n%s\n", filepath.Base(l.tree), filepath.Base(l.setup)), 0o600); err != nil {
		return err
	}
	settings := conf.Settings{Tier: tier, KVM: kvm, Password: l.password}
	files, err := conf.Files(settings)
	if err != nil {
		return err
	}
	t := log.Start("services (tier %s)", tier)
	waiting := map[string]bool{}
	for _, service := range services(tier) {
		waiting[service.name] = true
	}
	err = s.run(ctx, order{Lower: []string{filepath.Join(l.setup, "upper"), l.tree}, Upper: s.upper(), Settings: settings}, func(e event) {
		delete(waiting, e.Service)
		log.Printf("  %-26s %s after %.1f s", e.Service, e.State, e.Seconds)
		left := make([]string, 0, len(waiting))
		for name := range waiting {
			left = append(left, name)
		}
		slices.Sort(left)
		t.Update("waiting for %s", strings.Join(left, ", "))
	})
	t.Done(err)
	if err != nil {
		_, kerr := s.kill()
		return errors.Join(fmt.Errorf("%w\nall logs are in %s", err, s.state()), kerr)
	}
	if err := os.WriteFile(s.clouds(), files["/etc/openstack/clouds.yaml"], 0o600); err != nil {
		return err
	}
	return s.prune()
}

func hasKVM() bool { return unix.Access("/dev/kvm", unix.W_OK) == nil }

// inUse is whether a lab that is up has this layer.
func (s site) inUse(layer string) bool {
	all, _ := filepath.Glob(filepath.Join(s.dir, "labs", "*", "layers"))
	for _, f := range all {
		content, err := os.ReadFile(f)
		if err == nil && slices.Contains(strings.Fields(string(content)), layer) {
			return true
		}
	}
	return false
}

// down takes the lab down and checks that nothing is left.
func (s site) down(ctx context.Context, log *progress.Log) error {
	held, err := s.lock()
	if err != nil {
		return err
	}
	defer held.Close()
	if _, err := os.Stat(s.home()); errors.Is(err, fs.ErrNotExist) {
		if left, err := s.leftovers(); err == nil && len(left) == 0 {
			log.Printf("the lab is not up")
			return os.Remove(held.Name())
		}
	}
	t := log.Start("taking the lab down")
	disks := s.fileSystem()
	n, err := s.kill()
	if err == nil {
		err = os.RemoveAll(s.home())
	}
	t.Done(err)
	if err != nil {
		return err
	}
	left, err := s.leftovers()
	if err != nil {
		return err
	}
	loops, err := loopDevices(disks)
	if err != nil {
		return err
	}
	left = append(left, loops...)
	if len(left) > 0 {
		return fmt.Errorf("the lab left:\n  %s", strings.Join(left, "\n  "))
	}
	log.Printf("nothing is left: no process (%d ended), namespace, mount, link, control group, loop device or file of the lab", n)
	return os.Remove(held.Name())
}

// ended are services that ended by themselves.
func (s status) ended() []string {
	var bad []string
	for name, state := range s.Services {
		if state != "ready" {
			bad = append(bad, name+" "+state)
		}
	}
	slices.Sort(bad)
	return bad
}
