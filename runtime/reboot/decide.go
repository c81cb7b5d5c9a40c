package reboot

import (
	"fmt"
	"time"
)

// State is all that a machine's next step depends on.
type State struct {
	Now     time.Time
	Machine string
	Boot    string // the boot ID of now
	Policy  Policy

	Known bool // the lock as it is: false while the store does not answer
	Lock  Semaphore

	Required bool      // the system asks for a reboot
	Asked    bool      // an operator does, whatever the window says
	Last     time.Time // when the machine last rebooted because the system asked for it

	Drained bool
	// Leftover means that the machine may be drained still, by a process
	// before this one.
	Leftover bool
	Busy     string // what must not be interrupted; empty: nothing
	Unsafe   string // why the cluster can't do without the machine; empty: it can
	Unwell   string // what is amiss with a machine that came back; empty: nothing

	// Failed says why the last try did not lead to a reboot; there is no other
	// before Retry.
	Failed string
	Retry  time.Time
}

// Action is a machine's next step.
type Action int

// The actions. None has nothing done but waiting.
const (
	None    Action = iota
	Take           // take the lock
	Drain          // have the units moved away
	Reboot         // reboot
	Undrain        // let units come again
	Release        // let units come again, and give the lock back
)

func (a Action) String() string {
	return [...]string{"none", "take", "drain", "reboot", "undrain", "release"}[a]
}

// Step is an action, why it is the one, and for None when to look again; zero
// is not before something changes.
type Step struct {
	Action Action
	Reason string
	Again  time.Time
}

// MinUp is the least time between two reboots that a machine does by itself:
// what asks for a reboot after each of them must not make it reboot for ever.
const MinUp = time.Hour

// Decide says what a machine does next.
func Decide(s State) Step {
	if !s.Known {
		return Step{Reason: "the store does not answer, so the lock can't be taken or given back"}
	}
	h, held := s.Lock.Holder(s.Machine)
	if held && h.Boot != s.Boot && !h.Operator {
		// The machine has rebooted. A system that does not come up again keeps
		// the lock: whatever broke it would break the next one too.
		if s.Unwell != "" {
			return Step{Reason: "rebooted, and keeps the lock until it is well: " + s.Unwell}
		}
		return Step{Action: Release, Reason: "rebooted, and is well"}
	}
	// letGo gives up what was begun.
	letGo := func(why string, again time.Time) Step {
		switch {
		case held && !h.Operator:
			return Step{Action: Release, Reason: why}
		case !held && (s.Drained || s.Leftover):
			return Step{Action: Undrain, Reason: why}
		}
		return Step{Reason: why, Again: again}
	}
	want := s.Asked || s.Required && s.Policy.Auto
	switch {
	case !want && s.Required:
		return letGo("a reboot is required; this machine reboots only when it is told to", time.Time{})
	case !want:
		return letGo("", time.Time{})
	case s.Now.Before(s.Retry):
		return letGo(fmt.Sprintf("%s; tried again at %s", s.Failed, s.Retry.Format(time.TimeOnly)), s.Retry)
	case s.Unsafe != "":
		return letGo(s.Unsafe, time.Time{})
	}
	if held {
		switch {
		case !s.Drained:
			return Step{Action: Drain, Reason: "has the lock"}
		case s.Busy != "":
			return Step{Reason: "has the lock, and waits: " + s.Busy}
		}
		return Step{Action: Reboot, Reason: "has the lock, and no units"}
	}
	if s.Drained || s.Leftover {
		return Step{Action: Undrain, Reason: "the lock was taken from it"}
	}
	if !s.Asked {
		// A last reboot that lies ahead was noted by a clock that was set back since.
		if up := s.Last.Add(MinUp); !s.Last.IsZero() && s.Now.Before(up) && !s.Last.After(s.Now) {
			return Step{Reason: fmt.Sprintf("a reboot is required again, so soon after the last; not before %s", up.Format(time.TimeOnly)), Again: up}
		}
		if !s.Policy.Window.Open(s.Now) {
			next := s.Policy.Window.Next(s.Now)
			return Step{Reason: fmt.Sprintf("waits for its window (%s), next at %s", s.Policy.Window, next.Format("Mon 2006-01-02 15:04 MST")), Again: next}
		}
	}
	if s.Busy != "" {
		return Step{Reason: "waits: " + s.Busy}
	}
	if _, err := s.Lock.Take(Holder{Machine: s.Machine}, s.Policy.Max); err != nil {
		return Step{Reason: "waits: " + err.Error()}
	}
	return Step{Action: Take, Reason: "the lock is free"}
}
