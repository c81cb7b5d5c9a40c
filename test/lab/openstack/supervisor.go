package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supervisor is process 1 of the lab: the parent of its services and, in the
// end, of every process in it.
type supervisor struct {
	logs string // the directory of the services' output

	mu       sync.Mutex
	children map[int]*process
	exits    chan os.Signal
}

// process is a program that runs or ran.
type process struct {
	name   string
	pid    int
	done   chan struct{}
	status unix.WaitStatus // once done is closed
}

// newSupervisor makes the only one of this process.
func newSupervisor(logs string) *supervisor {
	s := &supervisor{logs: logs, children: map[int]*process{}, exits: make(chan os.Signal, 1)}
	signal.Notify(s.exits, unix.SIGCHLD)
	go s.reap()
	return s
}

// reap buries all children, orphans of the services among them. Nothing else
// in this process may wait for one, so os/exec can't be used.
func (s *supervisor) reap() {
	for range s.exits {
		for {
			var status unix.WaitStatus
			s.mu.Lock()
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			if err == unix.EINTR {
				s.mu.Unlock()
				continue
			}
			p := s.children[pid]
			delete(s.children, pid)
			s.mu.Unlock()
			if err != nil || pid <= 0 {
				break
			}
			if p != nil {
				p.status = status
				close(p.done)
			}
		}
	}
}

// command is a program to run.
type command struct {
	argv  []string
	user  string // empty: root
	env   []string
	stdin string
}

// environment of all programs in the lab.
var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=dumb"}

// start runs a program with its output in the log of the given name.
func (s *supervisor) start(name string, c command) (*process, error) {
	log, err := os.OpenFile(s.log(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	in, err := input(c.stdin)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	program, err := lookPath(c.argv[0])
	if err != nil {
		return nil, err
	}
	home := "/root"
	sys := &syscall.SysProcAttr{Setsid: true}
	if c.user != "" {
		u, err := user.Lookup(c.user)
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		sys.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		home = u.HomeDir
	}
	env := append(append([]string{"HOME=" + home}, environment...), c.env...)
	s.mu.Lock()
	defer s.mu.Unlock()
	started, err := os.StartProcess(program, c.argv, &os.ProcAttr{
		Dir: "/", Env: env, Files: []*os.File{in, log, log}, Sys: sys,
	})
	if err != nil {
		return nil, err
	}
	p := &process{name: name, pid: started.Pid, done: make(chan struct{})}
	s.children[p.pid] = p
	return p, started.Release()
}

// input is a file to read text from, or one that is empty.
func input(text string) (*os.File, error) {
	if text == "" {
		return os.Open(os.DevNull)
	}
	f, err := os.CreateTemp("", "stdin")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	if _, err := f.WriteString(text); err != nil {
		return nil, err
	}
	_, err = f.Seek(0, 0)
	return f, err
}

// lookPath is exec.LookPath in the lab's PATH: that of this process is the
// host's.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(strings.TrimPrefix(environment[0], "PATH="), ":") {
		path := filepath.Join(dir, name)
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not in the lab's tree", name)
}

func (s *supervisor) log(name string) string { return filepath.Join(s.logs, name+".log") }

// run runs a program to its end. The error of one that fails has the last
// lines of its output.
func (s *supervisor) run(ctx context.Context, name string, c command) error {
	p, err := s.start(name, c)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		_ = unix.Kill(-p.pid, unix.SIGKILL)
		<-p.done
		return s.failure(name, fmt.Sprintf("was not done in time (%v)", context.Cause(ctx)))
	}
	if p.status.ExitStatus() != 0 {
		return s.failure(name, ended(p.status))
	}
	return nil
}

// stop ends services in the order given, each with a SIGTERM and, when its
// time is up, a SIGKILL.
func (s *supervisor) stop(patience time.Duration, all ...*process) {
	for _, p := range all {
		_ = unix.Kill(p.pid, unix.SIGTERM)
	}
	deadline := time.After(patience)
	for _, p := range all {
		select {
		case <-p.done:
		case <-deadline:
			_ = unix.Kill(-p.pid, unix.SIGKILL)
			<-p.done
			deadline = time.After(0)
		}
	}
}

// ended says how a process did.
func ended(status unix.WaitStatus) string {
	if status.Signaled() {
		return "was killed by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("ended with status %d", status.ExitStatus())
}

// failure is the error of a service: what happened and the service's own
// last words.
type failure struct {
	Service string   `json:"service"`
	What    string   `json:"what"`
	Last    []string `json:"last,omitempty"` // lines of its log
}

func (f *failure) Error() string {
	text := f.Service + " " + f.What
	if len(f.Last) > 0 {
		text += "; the end of its log:\n    " + strings.Join(f.Last, "\n    ")
	}
	return text
}

func (s *supervisor) failure(name, what string) *failure {
	content, _ := os.ReadFile(s.log(name))
	return &failure{Service: name, What: what, Last: lastWords(string(content), 12)}
}

// lastWords are up to n lines of a log that say most about its end: the last
// lines, and before them the last error that they leave out.
func lastWords(log string, n int) []string {
	lines := strings.Split(strings.TrimRight(log, "\n"), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	if len(lines) <= n {
		return lines
	}
	last := lines[len(lines)-n:]
	for _, line := range last {
		if isError(line) {
			return last
		}
	}
	for i := len(lines) - n - 1; i >= 0; i-- {
		if isError(lines[i]) {
			return append([]string{lines[i], "..."}, last[2:]...)
		}
	}
	return last
}

func isError(line string) bool {
	return strings.Contains(line, " ERROR ") || strings.Contains(line, " CRITICAL ") || strings.Contains(line, "Error:")
}

// event is what process 1 tells whoever brings the lab up.
type event struct {
	Service string   `json:"service,omitempty"`
	State   string   `json:"state,omitempty"` // ready, ended
	Seconds float64  `json:"seconds,omitempty"`
	Done    bool     `json:"done,omitempty"`
	Failure *failure `json:"failure,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// reporter writes events to a pipe and keeps the state of all services in a
// file. That the pipe's other end has gone is no error: the lab stays.
type reporter struct {
	mu     sync.Mutex
	pipe   *json.Encoder
	file   string
	status status
}

// status is what the file of a running lab says.
type status struct {
	Tier       string            `json:"tier"`
	FileSystem uint64            `json:"file_system"` // that the lab's tree is, by number
	Ready      bool              `json:"ready"`
	Services   map[string]string `json:"services"`
}

func (r *reporter) tell(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Service != "" {
		r.status.Services[e.Service] = e.State
	}
	if e.Done {
		r.status.Ready = true
	}
	r.save()
	_ = r.pipe.Encode(e)
}

func (r *reporter) save() {
	if content, err := json.MarshalIndent(r.status, "", "  "); err == nil {
		if os.WriteFile(r.file+".new", append(content, '\n'), 0o600) == nil {
			_ = os.Rename(r.file+".new", r.file)
		}
	}
}

func (r *reporter) fail(err error) {
	e := event{Error: err.Error()}
	var f *failure
	if errors.As(err, &f) {
		e.Failure = f
	}
	r.tell(e)
}
