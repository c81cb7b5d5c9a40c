package reboot

import (
	"strings"
	"testing"
	"time"
)

// thursday is within the window of the tests' policy.
var thursday = time.Date(2026, 11, 26, 4, 30, 0, 0, time.UTC)

// base is a machine that has to reboot, and may.
func base() State {
	return State{
		Now: thursday, Machine: "a", Boot: "boot-a", Known: true, Required: true,
		Policy: Policy{Auto: true, Group: "g", Max: 1, Window: Window{Weekly: true, Day: time.Thursday, Hour: 4, Length: time.Hour}},
	}
}

func lockOf(hs ...Holder) Semaphore { return Semaphore{Holders: hs} }

func rebooted(h Holder) Holder {
	h.Boot = "boot-before"
	return h
}

func TestDecide(t *testing.T) {
	sunday := thursday.AddDate(0, 0, 3)
	for _, c := range []struct {
		name   string
		change func(*State)
		want   Action
		says   string // part of the reason
		again  time.Time
	}{
		{"it takes a free lock", func(s *State) {}, Take, "free", time.Time{}},
		{"nothing is asked of it", func(s *State) { s.Required = false }, None, "", time.Time{}},
		{"only an operator may have it reboot", func(s *State) { s.Policy.Auto = false }, None, "only when it is told to", time.Time{}},
		{"an operator does", func(s *State) { s.Policy.Auto, s.Asked = false, true }, Take, "free", time.Time{}},
		{"the store does not answer", func(s *State) { s.Known = false }, None, "store does not answer", time.Time{}},
		{"the store does not answer, and it holds", func(s *State) { s.Known, s.Lock, s.Drained = false, lockOf(holder("a")), true }, None, "store does not answer", time.Time{}},
		{"out of its window", func(s *State) { s.Now = sunday }, None, "waits for its window (Thu 04:00 for 1h), next at Thu 2026-12-03 04:00", time.Date(2026, 12, 3, 4, 0, 0, 0, time.UTC)},
		{"out of its window, but asked", func(s *State) { s.Now, s.Asked = sunday, true }, Take, "free", time.Time{}},
		{"packages are being installed", func(s *State) { s.Busy = "apt" }, None, "waits: apt", time.Time{}},
		{"etcd can't do without it", func(s *State) { s.Unsafe = "no majority" }, None, "no majority", time.Time{}},
		{"another machine has the lock", func(s *State) { s.Lock = lockOf(holder("b")) }, None, "held by m-b", time.Time{}},
		{"there is room for two", func(s *State) { s.Lock, s.Policy.Max = lockOf(holder("b")), 2 }, Take, "free", time.Time{}},
		{"reboots are stopped", func(s *State) { s.Lock.Max = limit(0) }, None, "stopped", time.Time{}},
		{"it has just rebooted", func(s *State) { s.Last = thursday.Add(-10 * time.Minute) }, None, "so soon after the last", thursday.Add(50 * time.Minute)},
		{"it has just rebooted, and is asked", func(s *State) { s.Last, s.Asked = thursday.Add(-10*time.Minute), true }, Take, "free", time.Time{}},
		{"its last reboot lies ahead, for its clock was set back", func(s *State) { s.Last = thursday.AddDate(1, 0, 0) }, Take, "free", time.Time{}},
		{"it rebooted long ago", func(s *State) { s.Last = thursday.Add(-MinUp) }, Take, "free", time.Time{}},
		{"a try failed", func(s *State) { s.Failed, s.Retry = "no room", thursday.Add(time.Minute) }, None, "no room; tried again at 04:31:00", thursday.Add(time.Minute)},
		{"a try failed long ago", func(s *State) { s.Failed, s.Retry = "no room", thursday }, Take, "free", time.Time{}},
		{"a drain of an earlier process stands", func(s *State) { s.Required, s.Leftover = false, true }, Undrain, "", time.Time{}},
		{"a drain of an earlier process stands, and it is to reboot", func(s *State) { s.Leftover = true }, Undrain, "", time.Time{}},

		{"it holds", func(s *State) { s.Lock = lockOf(holder("a")) }, Drain, "has the lock", time.Time{}},
		{"it holds, an earlier process may have drained it", func(s *State) { s.Lock, s.Leftover = lockOf(holder("a")), true }, Drain, "has the lock", time.Time{}},
		{"it holds, the window has closed", func(s *State) { s.Lock, s.Now = lockOf(holder("a")), sunday }, Drain, "has the lock", time.Time{}},
		{"it holds, max went down", func(s *State) { s.Lock = Semaphore{Max: limit(0), Holders: []Holder{holder("a")}} }, Drain, "has the lock", time.Time{}},
		{"it is drained", func(s *State) { s.Lock, s.Drained = lockOf(holder("a")), true }, Reboot, "no units", time.Time{}},
		{"it is drained, packages are being installed", func(s *State) { s.Lock, s.Drained, s.Busy = lockOf(holder("a")), true, "apt" }, None, "has the lock, and waits: apt", time.Time{}},
		{"it holds, etcd can't do without it", func(s *State) { s.Lock, s.Drained, s.Unsafe = lockOf(holder("a")), true, "no majority" }, Release, "no majority", time.Time{}},
		{"it holds, a try failed", func(s *State) { s.Lock, s.Failed, s.Retry = lockOf(holder("a")), "no room", thursday.Add(time.Minute) }, Release, "no room", time.Time{}},
		{"it holds, nothing is asked any more", func(s *State) { s.Lock, s.Drained, s.Required = lockOf(holder("a")), true, false }, Release, "", time.Time{}},
		{"it holds, and must not by itself any more", func(s *State) { s.Lock, s.Policy.Auto = lockOf(holder("a")), false }, Release, "only when it is told to", time.Time{}},
		{"the lock was taken from it", func(s *State) { s.Drained = true }, Undrain, "taken from it", time.Time{}},
		{"the lock was taken from it, nothing is asked", func(s *State) { s.Drained, s.Required = true, false }, Undrain, "", time.Time{}},

		{"it came back", func(s *State) { s.Lock, s.Required = lockOf(rebooted(holder("a"))), false }, Release, "is well", time.Time{}},
		{"it came back unwell", func(s *State) { s.Lock, s.Unwell = lockOf(rebooted(holder("a"))), "no etcd" }, None, "keeps the lock until it is well: no etcd", time.Time{}},
		{"it came back, and has to reboot again", func(s *State) { s.Lock = lockOf(rebooted(holder("a"))) }, Release, "is well", time.Time{}},
		{"it came back, others hold too", func(s *State) { s.Lock, s.Policy.Max = lockOf(holder("b"), rebooted(holder("a"))), 2 }, Release, "is well", time.Time{}},

		{"an operator holds for it", func(s *State) { s.Lock, s.Required = lockOf(operators("a")), false }, None, "", time.Time{}},
		{"an operator holds for it, and asks", func(s *State) { s.Lock, s.Asked = lockOf(operators("a")), true }, Drain, "has the lock", time.Time{}},
		{"an operator holds for it, it came back", func(s *State) { s.Lock, s.Required = lockOf(rebooted(operators("a"))), false }, None, "", time.Time{}},
		{"an operator holds for it, it failed", func(s *State) {
			s.Lock, s.Failed, s.Retry = lockOf(operators("a")), "no room", thursday.Add(time.Minute)
		}, None, "no room", thursday.Add(time.Minute)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := base()
			c.change(&s)
			got := Decide(s)
			if got.Action != c.want || !strings.Contains(got.Reason, c.says) || !got.Again.Equal(c.again) {
				t.Errorf("got %v, %q, again %v; want %v, %q, %v", got.Action, got.Reason, got.Again, c.want, c.says, c.again)
			}
		})
	}
}

// TestDecideNever goes through all combinations for what must never happen.
func TestDecideNever(t *testing.T) {
	locks := map[string]Semaphore{
		"free": {}, "ours": lockOf(holder("a")), "came back": lockOf(rebooted(holder("a"))), "theirs": lockOf(holder("b")),
		"operator's": lockOf(operators("a")), "operator's, came back": lockOf(rebooted(operators("a"))), "stopped": {Max: limit(0)},
	}
	n := 0
	for name, lock := range locks {
		for bits := range 1 << 11 {
			on := func(i int) bool { return bits>>i&1 == 1 }
			s := base()
			s.Lock = lock
			s.Known, s.Required, s.Asked, s.Policy.Auto, s.Drained, s.Leftover = on(0), on(1), on(2), on(3), on(4), on(5)
			if on(6) {
				s.Busy = "apt"
			}
			if on(7) {
				s.Unsafe = "etcd"
			}
			if on(8) {
				s.Unwell = "starting"
			}
			if on(9) {
				s.Now = thursday.AddDate(0, 0, 1)
			}
			if on(10) {
				s.Failed, s.Retry = "failed", s.Now.Add(time.Minute)
			}
			step := Decide(s)
			h, held := lock.Holder("a")
			wrong := ""
			switch step.Action {
			case Reboot:
				switch {
				case !held:
					wrong = "reboots without the lock"
				case !s.Drained:
					wrong = "reboots with units"
				case s.Busy != "" || s.Unsafe != "" || on(10):
					wrong = "reboots when it must not"
				case !s.Asked && !(s.Required && s.Policy.Auto):
					wrong = "reboots unasked"
				case h.Boot != s.Boot && !h.Operator:
					wrong = "reboots twice"
				}
			case Take:
				if held || !lock.roomFor("a") {
					wrong = "takes what is not to be had"
				}
				if !s.Asked && on(9) {
					wrong = "takes the lock out of its window"
				}
			case Release:
				if !held || h.Operator {
					wrong = "releases what is not its own"
				}
				if h.Boot != s.Boot && s.Unwell != "" {
					wrong = "releases while unwell"
				}
			case Undrain:
				if held && !h.Operator {
					wrong = "undrains before it lets go"
				}
			}
			if step.Action != None && !s.Known {
				wrong = "acts blindly"
			}
			if wrong != "" {
				t.Errorf("%s: lock %s, %+v: %v", wrong, name, s, step)
			}
			n++
		}
	}
	t.Logf("%d states", n)
}

func (s Semaphore) roomFor(machine string) bool {
	_, err := s.Take(Holder{Machine: machine}, 1)
	return err == nil
}

func TestLost(t *testing.T) {
	patient := func(id string, d time.Duration) Holder {
		h := holder(id)
		h.PatienceSeconds = int(d / time.Second)
		return h
	}
	lock := lockOf(patient("a", time.Minute), patient("b", 2*time.Minute), operators("c"), holder("d"))
	sights := map[string]Sight{}
	var l Lost
	for _, step := range []struct {
		after time.Duration // since the beginning
		sees  map[string]Sight
		lost  string
		again time.Duration
	}{
		{0, nil, "", 0},
		{time.Second, map[string]Sight{"a": Gone, "b": Gone, "c": Gone}, "", time.Minute},
		{31 * time.Second, nil, "", 30 * time.Second},
		// It rebooted and is back: what it was gone counts no longer.
		{40 * time.Second, map[string]Sight{"a": Present}, "", 81 * time.Second},
		{50 * time.Second, map[string]Sight{"a": Gone}, "", time.Minute},
		{110 * time.Second, nil, "a", 11 * time.Second},
		{121 * time.Second, nil, "ab", 0},
		// An operator's hold stays, unless the machine is forgotten.
		{time.Hour, map[string]Sight{"a": Unknown, "b": Present, "c": Gone}, "a", 0},
		{2 * time.Hour, map[string]Sight{"a": Present, "c": Unknown}, "c", 0},
		// No patience is the least there is, not none at all.
		{3 * time.Hour, map[string]Sight{"c": Present, "d": Gone}, "", MinPatience},
	} {
		for id, s := range step.sees {
			sights[id] = s
		}
		lost, again := l.Of(thursday.Add(step.after), lock, func(id string) Sight { return sights[id] })
		got := ""
		for _, h := range lost {
			got += h.Machine
		}
		if got != step.lost || again != step.again {
			t.Errorf("after %v: lost %q, again %v; want %q, %v", step.after, got, again, step.lost, step.again)
		}
	}
}
