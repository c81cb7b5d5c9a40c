package reboot

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Window is when machines may begin to reboot: for Length from Hour:Minute of
// every day, or of one day of the week, by the machine's own clock and zone.
// The zero Window is always open.
type Window struct {
	Weekly       bool
	Day          time.Weekday // if Weekly
	Hour, Minute int
	Length       time.Duration
}

var (
	windowPattern = regexp.MustCompile(`^(?:([A-Za-z]+) +)?([01]?[0-9]|2[0-3]):([0-5][0-9])$`)
	days          = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
)

// ParseWindow reads "04:00" or "Thu 04:00". The length is from one minute to a
// day, or to a week with a weekday.
func ParseWindow(start string, length time.Duration) (Window, error) {
	m := windowPattern.FindStringSubmatch(start)
	if m == nil {
		return Window{}, fmt.Errorf("%q is no time of day such as \"04:00\", nor one with a weekday such as \"Thu 04:00\"", start)
	}
	w := Window{Length: length}
	longest := 24 * time.Hour
	if m[1] != "" {
		longest *= 7
		w.Weekly = true
		day := -1
		for i, d := range days {
			full := strings.ToLower(time.Weekday(i).String())
			if given := strings.ToLower(m[1]); given == d || given == full {
				day = i
			}
		}
		if day < 0 {
			return Window{}, fmt.Errorf("%q is no weekday; they are Mon, Tue, Wed, Thu, Fri, Sat and Sun", m[1])
		}
		w.Day = time.Weekday(day)
	}
	// The pattern lets only numbers through.
	w.Hour, _ = strconv.Atoi(m[2])
	w.Minute, _ = strconv.Atoi(m[3])
	if length < time.Minute || length > longest {
		return Window{}, fmt.Errorf("%s is not the length of a window, which is from 1m to %s", short(length), short(longest))
	}
	return w, nil
}

// String is what ParseWindow reads, and the length.
func (w Window) String() string {
	if w.Length == 0 {
		return "always"
	}
	s := fmt.Sprintf("%02d:%02d for %s", w.Hour, w.Minute, short(w.Length))
	if w.Weekly {
		s = w.Day.String()[:3] + " " + s
	}
	return s
}

// short writes a duration without the zeros at its end.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// begins returns the window's beginning on the day that is n days after t, and
// whether there is one on that day. Where clocks are put forward over it, it is
// moved as time.Date does.
func (w Window) begins(t time.Time, n int) (time.Time, bool) {
	at := time.Date(t.Year(), t.Month(), t.Day()+n, w.Hour, w.Minute, 0, 0, t.Location())
	noon := time.Date(t.Year(), t.Month(), t.Day()+n, 12, 0, 0, 0, t.Location())
	return at, !w.Weekly || noon.Weekday() == w.Day
}

// Open reports whether t is within the window: from its beginning on, and
// before its end.
func (w Window) Open(t time.Time) bool {
	if w.Length == 0 {
		return true
	}
	for n := -7; n <= 0; n++ {
		if at, ok := w.begins(t, n); ok && !t.Before(at) && t.Before(at.Add(w.Length)) {
			return true
		}
	}
	return false
}

// Next is when the window opens next after t, or t if it is open.
func (w Window) Next(t time.Time) time.Time {
	if w.Open(t) {
		return t
	}
	for n := 0; ; n++ {
		if at, ok := w.begins(t, n); ok && at.After(t) {
			return at
		}
	}
}
