package reboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Lock is where the group's lock is.
type Lock interface {
	// ChangeReboot replaces the group's lock by what f makes of it. f may be
	// called more than once; its error is returned.
	ChangeReboot(ctx context.Context, group string, f func(Semaphore) (Semaphore, error)) (int64, error)
}

// Mirror is the lock as the store's watch shows it.
type Mirror interface {
	// Reboots returns the group's lock, and false while the store does not
	// answer.
	Reboots(group string) (Semaphore, bool)
	// Changed is closed at the next change.
	Changed() <-chan struct{}
}

// Drainer moves this machine's units away, and lets them come back.
type Drainer interface {
	// Drain asks that no unit stays here or comes, and returns when none is
	// left. It may be called again.
	Drain(ctx context.Context) error
	// Undrain takes that back. It does nothing if no Drain stands.
	Undrain(ctx context.Context) error
}

// System is this machine.
type System interface {
	Required() (bool, []string, error)
	Busy() (string, error)
	// Reboot asks for the reboot and returns.
	Reboot(ctx context.Context) error
}

// Config of a Node.
type Config struct {
	Machine, Name, Boot string
	Policy              Policy
	Lock                Lock
	Mirror              Mirror
	System              System
	// Drainer is nil where there is none: units then move when the machine is
	// gone.
	Drainer Drainer
	// Safe says why the cluster can't do without this machine now.
	Safe func(ctx context.Context) error
	// Well says what is amiss after a boot.
	Well func(ctx context.Context) error
	// Dir is where it keeps what a reboot must not lose.
	Dir    string
	Logger *slog.Logger
}

// Status is what a machine says of its reboots.
type Status struct {
	Machine  string   `json:"machine"`
	Name     string   `json:"name"`
	Group    string   `json:"group"`
	Auto     bool     `json:"auto"`
	Window   string   `json:"window"`
	Max      int      `json:"max"` // as the machine is configured
	Required bool     `json:"required"`
	Packages []string `json:"packages,omitempty"`
	Asked    bool     `json:"asked,omitempty"` // by an operator
	Known    bool     `json:"known"`           // the lock is; false while the store does not answer
	Holds    bool     `json:"holds,omitempty"`
	Operator bool     `json:"operator,omitempty"` // an operator took the lock for it
	Drained  bool     `json:"drained,omitempty"`
	Boot     string   `json:"boot"`
	Reason   string   `json:"reason,omitempty"` // of what it does, or waits for
}

// Node is one machine's side of the lock.
type Node struct {
	Config
	asked chan struct{}

	mu      sync.Mutex
	state   State
	status  Status
	problem string // that was logged last
}

// errFaster means that another machine took the lock first, as the mirror is
// about to show.
var errFaster = errors.New("another machine was faster")

// Times between looks and tries.
const (
	lookEvery  = 5 * time.Second // at /run/reboot-required, and at what is waited for
	checkLimit = 10 * time.Second
	retryAfter = 5 * time.Minute
	// downLimit is how long the system may take from being asked to reboot
	// until it has ended this process.
	downLimit = 5 * time.Minute
)

// New returns a node; Run makes it go.
func New(c Config) *Node {
	n := &Node{Config: c, asked: make(chan struct{}, 1)}
	n.state = State{Machine: c.Machine, Boot: c.Boot, Policy: c.Policy, Leftover: true}
	n.status = n.describe(Step{}, nil)
	return n
}

// Now has the machine reboot as soon as it gets the lock, whatever its window
// says. Cancel takes that back, until the machine goes down.
func (n *Node) Now() { n.ask(true) }

// Cancel takes back what Now asked for.
func (n *Node) Cancel() { n.ask(false) }

func (n *Node) ask(yes bool) {
	n.mu.Lock()
	n.state.Asked = yes
	if yes {
		n.state.Retry = time.Time{}
	}
	n.status.Asked = yes
	n.mu.Unlock()
	select {
	case n.asked <- struct{}{}:
	default:
	}
}

// Status returns the newest.
func (n *Node) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status
}

// Run does what Decide says, until ctx ends.
func (n *Node) Run(ctx context.Context) {
	n.state.Last = n.lastReboot()
	for {
		changed := n.Mirror.Changed()
		step := n.look(ctx)
		if step.Action != None {
			err := n.do(ctx, step)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, errFaster) && n.failed(step, err) {
				continue
			}
		}
		wait := lookEvery
		if !step.Again.IsZero() {
			wait = max(min(wait, time.Until(step.Again)), 0)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-n.asked:
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// look gathers the state and decides on it. What costs requests is asked only
// when the decision hangs on it.
func (n *Node) look(ctx context.Context) Step {
	required, packages, err := n.System.Required()
	if err != nil {
		n.log("whether a reboot is required can't be told", err)
	}
	n.mu.Lock()
	s := n.state
	n.mu.Unlock()
	s.Now, s.Required = time.Now(), required
	s.Lock, s.Known = n.Mirror.Reboots(n.Policy.Group)
	cctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	step := Decide(s)
	switch step.Action {
	case Release:
		if h, _ := s.Lock.Holder(s.Machine); h.Boot != s.Boot {
			s.Unwell = text(n.Well(cctx))
			step = Decide(s)
		}
	case Take, Drain, Reboot:
		s.Unsafe = text(n.Safe(cctx))
		if s.Busy, err = n.System.Busy(); err != nil {
			s.Busy = err.Error()
		}
		step = Decide(s)
	}
	n.mu.Lock()
	n.state.Lock, n.state.Known, n.state.Required = s.Lock, s.Known, s.Required
	n.status = n.describe(step, packages)
	n.mu.Unlock()
	return step
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (n *Node) describe(step Step, packages []string) Status {
	s := n.state
	h, holds := s.Lock.Holder(s.Machine)
	return Status{
		Machine: n.Machine, Name: n.Name, Group: n.Policy.Group, Auto: n.Policy.Auto, Window: n.Policy.Window.String(), Max: n.Policy.Max,
		Required: s.Required, Packages: packages, Asked: s.Asked, Known: s.Known, Holds: holds, Operator: h.Operator, Drained: s.Drained, Boot: n.Boot, Reason: step.Reason,
	}
}

// do carries out a step.
func (n *Node) do(ctx context.Context, step Step) error {
	n.Logger.Info("reboot lock", "step", step.Action, "reason", step.Reason, "group", n.Policy.Group)
	switch step.Action {
	case Take:
		h := Holder{Machine: n.Machine, Name: n.Name, Boot: n.Boot, Since: time.Now().UTC().Truncate(time.Second), PatienceSeconds: int(n.Policy.Patience / time.Second)}
		_, err := n.Lock.ChangeReboot(ctx, n.Policy.Group, func(s Semaphore) (Semaphore, error) { return s.Take(h, n.Policy.Max) })
		var full *FullError
		if errors.As(err, &full) {
			return errFaster
		}
		return n.shown(ctx, err, true)
	case Drain:
		if n.Drainer != nil {
			dctx, cancel := context.WithTimeout(ctx, n.Policy.Drain)
			defer cancel()
			if err := n.Drainer.Drain(dctx); err != nil {
				return err
			}
		}
		n.drained(true)
	case Reboot:
		return n.reboot(ctx)
	case Undrain, Release:
		if n.Drainer != nil {
			uctx, cancel := context.WithTimeout(ctx, checkLimit)
			defer cancel()
			if err := n.Drainer.Undrain(uctx); err != nil {
				return err
			}
		}
		n.drained(false)
		if step.Action == Undrain {
			return nil
		}
		_, err := n.Lock.ChangeReboot(ctx, n.Policy.Group, func(s Semaphore) (Semaphore, error) {
			if h, _ := s.Holder(n.Machine); h.Operator {
				return s, nil
			}
			return s.Release(n.Machine), nil
		})
		return n.shown(ctx, err, false)
	}
	return nil
}

func (n *Node) drained(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state.Drained, n.state.Leftover = yes, false
}

// shown waits until the mirror shows that the lock was taken or given back, so
// that the next decision is made on it.
func (n *Node) shown(ctx context.Context, err error, held bool) error {
	if err != nil {
		return err
	}
	t := time.NewTimer(checkLimit)
	defer t.Stop()
	for {
		changed := n.Mirror.Changed()
		s, known := n.Mirror.Reboots(n.Policy.Group)
		if _, have := s.Holder(n.Machine); known && have == held {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			return nil // it may have been taken from it meanwhile
		case <-changed:
		}
	}
}

// reboot asks the system to and waits to be ended by it.
func (n *Node) reboot(ctx context.Context) error {
	// The mirror may be a moment old, and the lock taken from a machine that
	// was away. The store is asked itself.
	_, err := n.Lock.ChangeReboot(ctx, n.Policy.Group, func(s Semaphore) (Semaphore, error) {
		if _, held := s.Holder(n.Machine); !held {
			return s, errors.New("the lock was taken from this machine")
		}
		return s, nil
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	asked := n.state.Asked
	n.mu.Unlock()
	if !asked {
		if err := n.noteReboot(time.Now()); err != nil {
			return err
		}
	}
	rctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	if err := n.System.Reboot(rctx); err != nil {
		return err
	}
	t := time.NewTimer(downLimit)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return fmt.Errorf("the system was asked to reboot and is still up after %v", downLimit)
	}
}

// failed puts off the next try, if it was one, and says whether it did. The
// lock is given back until then.
func (n *Node) failed(step Step, err error) (putOff bool) {
	n.log("reboot lock: "+step.Action.String(), err)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.Reason = fmt.Sprintf("%s failed: %v", step.Action, err)
	if step.Action == Drain || step.Action == Reboot {
		n.state.Failed, n.state.Retry = n.status.Reason, time.Now().Add(retryAfter)
		return true
	}
	return false
}

// log says what is wrong, once.
func (n *Node) log(what string, err error) {
	if p := what + err.Error(); p != n.problem {
		n.problem = p
		n.Logger.Error(what, "err", err)
	}
}
