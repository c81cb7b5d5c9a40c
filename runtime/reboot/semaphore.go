package reboot

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Semaphore is the lock of a group of machines: as many of them as Max allows
// hold it at a time. The store keeps it as reboot/<group>. Its methods return a
// new value and leave the old one as it was.
type Semaphore struct {
	// Max is how many may hold it, as an operator set it; 0 lets nobody
	// reboot. nil leaves that to the machines' configuration.
	Max     *int     `json:"max,omitempty"`
	Holders []Holder `json:"holders,omitempty"`
}

// Holder is a machine that has the lock.
type Holder struct {
	Machine string    `json:"machine"` // machine ID
	Name    string    `json:"name"`
	Boot    string    `json:"boot"` // the boot ID that it had when it took the lock
	Since   time.Time `json:"since"`
	// PatienceSeconds is how long the machine may be gone before it is taken
	// for lost and the lock from it.
	PatienceSeconds int `json:"patienceSeconds,omitempty"`
	// Operator means that an operator took the lock on the machine's behalf;
	// only an operator gives it back.
	Operator bool `json:"operator,omitempty"`
}

// FullError says who has the lock.
type FullError struct {
	Max     int
	Holders []Holder
}

func (e *FullError) Error() string {
	if e.Max == 0 {
		return "reboots of the group are stopped: an operator set its max to 0"
	}
	var names []string
	for _, h := range e.Holders {
		names = append(names, fmt.Sprintf("%s (since %s)", h.Name, h.Since.UTC().Format(time.RFC3339)))
	}
	return "the lock is held by " + strings.Join(names, ", ")
}

// String is for logs.
func (s Semaphore) String() string {
	var names []string
	for _, h := range s.Holders {
		names = append(names, h.Name)
	}
	text := "held by nobody"
	if len(names) > 0 {
		text = "held by " + strings.Join(names, ", ")
	}
	if s.Max != nil {
		text += fmt.Sprintf(", max %d", *s.Max)
	}
	return text
}

// Holder finds a machine among the holders.
func (s Semaphore) Holder(machine string) (Holder, bool) {
	for _, h := range s.Holders {
		if h.Machine == machine {
			return h, true
		}
	}
	return Holder{}, false
}

// Limit is how many may hold the lock, where the machines say configured.
func (s Semaphore) Limit(configured int) int {
	if s.Max != nil {
		return *s.Max
	}
	return configured
}

// Take adds a holder. One that has the lock keeps it as it is. The error is a
// *FullError.
func (s Semaphore) Take(h Holder, configured int) (Semaphore, error) {
	if _, ok := s.Holder(h.Machine); ok {
		return s, nil
	}
	if limit := s.Limit(configured); len(s.Holders) >= limit {
		return s, &FullError{limit, s.Holders}
	}
	s.Holders = append(slices.Clip(s.Holders), h)
	return s, nil
}

// Hold adds a holder on an operator's word: the limit does not count, and only
// an operator gives the lock back. A machine that has it by itself keeps its
// place.
func (s Semaphore) Hold(h Holder) Semaphore {
	h.Operator = true
	if have, ok := s.Holder(h.Machine); ok {
		if have.Operator {
			return s
		}
		have.Operator = true
		h = have
	}
	s = s.Release(h.Machine)
	s.Holders = append(slices.Clip(s.Holders), h)
	return s
}

// Release takes a machine out, if it is in.
func (s Semaphore) Release(machine string) Semaphore {
	if _, ok := s.Holder(machine); !ok {
		return s
	}
	s.Holders = slices.DeleteFunc(slices.Clone(s.Holders), func(h Holder) bool { return h.Machine == machine })
	if len(s.Holders) == 0 {
		s.Holders = nil
	}
	return s
}

// WithMax returns the lock with another limit; nil leaves it to the machines.
func (s Semaphore) WithMax(limit *int) Semaphore {
	s.Max = limit
	return s
}
