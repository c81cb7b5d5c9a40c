package unit

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Retries is how often a unit that fails is started again on its machine before
// another one is tried.
type Retries struct {
	Starts int           // within the time; 0: never, that is for Restart= to say
	Within time.Duration // also how long a machine that used them up is avoided
}

// DefaultRetryTime is Within when only a number is given.
const DefaultRetryTime = 10 * time.Minute

// Update is how a new text reaches the units of a template, or the machines of a
// global unit.
type Update struct {
	Rolling  bool          // a few at a time; else all at once
	Max      int           // that may be unready at a time
	Gate     time.Duration // how long one has to be ready before the next
	Rollback bool          // back to the old text when one fails, else pause
}

// Life is how a unit lives.
type Life struct {
	Retries   Retries
	RunOnce   bool     // it runs to its end, once in the cluster
	Singleton bool     // it never runs twice, whatever it costs
	After     []string // units that have to be ready before it is started
	Requires  []string // the same, and they have to be wished for
	Update    Update
}

// setLife takes an option that says how the unit lives; known is false for
// another option.
func (s *Spec) setLife(name, value string) (known bool, err error) {
	switch name {
	case "Retries":
		s.Retries, err = parseRetries(value)
	case "RunOnce":
		s.RunOnce, err = ParseBool(value)
	case "Singleton":
		s.Singleton, err = ParseBool(value)
	case "After":
		err = addNames(&s.After, value)
	case "Requires":
		err = addNames(&s.Requires, value)
	case "Update":
		s.Update, err = parseUpdate(value)
	default:
		return false, nil
	}
	return true, err
}

func addNames(to *[]string, value string) error {
	for _, w := range strings.Fields(value) {
		if n, err := ParseName(w); err != nil {
			return err
		} else if n.Template {
			return fmt.Errorf("%s is a template; name an instance, such as %s", w, n.InstanceOf("1"))
		}
		if !slices.Contains(*to, w) {
			*to = append(*to, w)
		}
	}
	return nil
}

func parseRetries(s string) (Retries, error) {
	n, within, timed := strings.Cut(s, "/")
	r := Retries{Within: DefaultRetryTime}
	var err error
	r.Starts, err = strconv.Atoi(n)
	if err != nil || r.Starts < 0 || r.Starts > 1000 {
		return r, fmt.Errorf("%q is no number of retries such as 3, or 3/10m for three in ten minutes", s)
	}
	if timed {
		err = parsePositive(within, &r.Within)
	}
	return r, err
}

func parseUpdate(s string) (Update, error) {
	words := strings.Fields(s)
	if len(words) == 1 && words[0] == "at-once" {
		return Update{}, nil
	}
	if len(words) == 0 || words[0] != "rolling" {
		return Update{}, fmt.Errorf("%q begins with neither rolling nor at-once", s)
	}
	u := Update{Rolling: true, Max: 1}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		var err error
		switch k {
		case "max":
			if u.Max, err = strconv.Atoi(v); err != nil || u.Max < 1 {
				return u, fmt.Errorf("%q: at least one unit has to change at a time", w)
			}
		case "gate":
			err = parsePositive(v, &u.Gate)
		case "rollback":
			u.Rollback, err = ParseBool(v)
		default:
			return u, fmt.Errorf("%q is none of max=, gate=, rollback=", w)
		}
		if err != nil {
			return u, err
		}
	}
	return u, nil
}

func (s *Spec) checkLife() error {
	switch {
	case s.Singleton && s.Global:
		return errors.New("Singleton= and Global= can't be used together: one runs once, the other on every machine")
	case s.RunOnce && s.Global:
		return errors.New("RunOnce= and Global= can't be used together: one runs once, the other on every machine")
	case slices.Contains(s.After, s.Name) || slices.Contains(s.Requires, s.Name):
		return errors.New("After= or Requires= names the unit itself")
	}
	return nil
}
