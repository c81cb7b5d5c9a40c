package reboot

import (
	"testing"
	"time"
	_ "time/tzdata"
)

func TestParseWindow(t *testing.T) {
	for _, c := range []struct {
		start  string
		length time.Duration
		want   string // String, or the error
	}{
		{"04:00", time.Hour, "04:00 for 1h"},
		{"4:05", 90 * time.Minute, "04:05 for 1h30m"},
		{"23:59", time.Minute, "23:59 for 1m"},
		{"Thu 04:00", 2 * time.Hour, "Thu 04:00 for 2h"},
		{"thursday  04:00", 2 * time.Hour, "Thu 04:00 for 2h"},
		{"SUN 00:00", 168 * time.Hour, "Sun 00:00 for 168h"},
		{"00:00", 24 * time.Hour, "00:00 for 24h"},
		{"24:00", time.Hour, `"24:00" is no time of day such as "04:00", nor one with a weekday such as "Thu 04:00"`},
		{"04:60", time.Hour, `"04:60" is no time of day such as "04:00", nor one with a weekday such as "Thu 04:00"`},
		{"Thu", time.Hour, `"Thu" is no time of day such as "04:00", nor one with a weekday such as "Thu 04:00"`},
		{"", time.Hour, `"" is no time of day such as "04:00", nor one with a weekday such as "Thu 04:00"`},
		{"Thu,Fri 04:00", time.Hour, `"Thu,Fri 04:00" is no time of day such as "04:00", nor one with a weekday such as "Thu 04:00"`},
		{"Thirsday 04:00", time.Hour, `"Thirsday" is no weekday; they are Mon, Tue, Wed, Thu, Fri, Sat and Sun`},
		{"04:00", 0, "0s is not the length of a window, which is from 1m to 24h"},
		{"04:00", 25 * time.Hour, "25h is not the length of a window, which is from 1m to 24h"},
		{"Thu 04:00", 169 * time.Hour, "169h is not the length of a window, which is from 1m to 168h"},
	} {
		w, err := ParseWindow(c.start, c.length)
		got := w.String()
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q, %v: got %s, want %s", c.start, c.length, got, c.want)
		}
	}
}

func window(t *testing.T, start string, length time.Duration) Window {
	t.Helper()
	w, err := ParseWindow(start, length)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWindowOpensAndCloses(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	const layout = "Mon 2006-01-02 15:04:05"
	for _, c := range []struct {
		name   string
		start  string
		length time.Duration
		zone   *time.Location
		at     string
		next   string // empty: it is open
	}{
		{"at its beginning", "04:00", time.Hour, time.UTC, "Thu 2026-11-26 04:00:00", ""},
		{"just before", "04:00", time.Hour, time.UTC, "Thu 2026-11-26 03:59:59", "Thu 2026-11-26 04:00:00"},
		{"just before its end", "04:00", time.Hour, time.UTC, "Thu 2026-11-26 04:59:59", ""},
		{"at its end", "04:00", time.Hour, time.UTC, "Thu 2026-11-26 05:00:00", "Fri 2026-11-27 04:00:00"},
		{"over midnight, before", "23:00", 3 * time.Hour, time.UTC, "Thu 2026-11-26 23:30:00", ""},
		{"over midnight, after", "23:00", 3 * time.Hour, time.UTC, "Fri 2026-11-27 01:59:00", ""},
		{"over midnight, closed", "23:00", 3 * time.Hour, time.UTC, "Fri 2026-11-27 02:00:00", "Fri 2026-11-27 23:00:00"},
		{"the day of the week", "Thu 04:00", time.Hour, time.UTC, "Thu 2026-11-26 04:30:00", ""},
		{"another day", "Thu 04:00", time.Hour, time.UTC, "Fri 2026-11-27 04:30:00", "Thu 2026-12-03 04:00:00"},
		{"the day before", "Thu 04:00", time.Hour, time.UTC, "Wed 2026-11-25 23:00:00", "Thu 2026-11-26 04:00:00"},
		{"days long", "Fri 22:00", 48 * time.Hour, time.UTC, "Sun 2026-11-29 21:59:59", ""},
		{"days long, over", "Fri 22:00", 48 * time.Hour, time.UTC, "Sun 2026-11-29 22:00:00", "Fri 2026-12-04 22:00:00"},
		{"a whole week", "Mon 00:00", 168 * time.Hour, time.UTC, "Sun 2026-11-29 23:59:59", ""},
		{"over the end of the year", "Thu 23:30", time.Hour, time.UTC, "Fri 2027-01-01 00:15:00", ""},
		{"in a zone of its own", "04:00", time.Hour, berlin, "Thu 2026-11-26 04:30:00", ""},
		// Clocks go from 02:00 to 03:00 on 2027-03-28.
		{"an hour that is left out", "02:30", time.Hour, berlin, "Sun 2027-03-28 03:30:00", ""},
		{"an hour that is left out, weekly", "Sun 02:30", time.Hour, berlin, "Sun 2027-03-28 03:45:00", ""},
		// They go from 03:00 back to 02:00 on 2026-10-25; the length is real time.
		{"an hour that comes twice", "02:00", time.Hour, berlin, "Sun 2026-10-25 03:30:00", "Mon 2026-10-26 02:00:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := window(t, c.start, c.length)
			at, err := time.ParseInLocation(layout, c.at, c.zone)
			if err != nil {
				t.Fatal(err)
			}
			if open := w.Open(at); open != (c.next == "") {
				t.Errorf("open: %v", open)
			}
			want := c.next
			if want == "" {
				want = c.at
			}
			if got := w.Next(at).Format(layout); got != want {
				t.Errorf("next: got %s, want %s", got, want)
			}
		})
	}
}

// What Next says is open, and nothing between is.
func TestNextIsTheFirstMinuteThatIsOpen(t *testing.T) {
	for _, w := range []Window{window(t, "04:00", time.Hour), window(t, "Sun 23:50", 20*time.Minute), {}} {
		start := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
		for at := start; at.Before(start.AddDate(0, 0, 8)); at = at.Add(7 * time.Minute) {
			next := w.Next(at)
			if !w.Open(next) || next.Before(at) {
				t.Fatalf("%v: next after %v is %v, which is not open", w, at, next)
			}
			if next.After(at) && w.Open(next.Add(-time.Minute)) {
				t.Fatalf("%v: next after %v is %v, and it was open before", w, at, next)
			}
		}
	}
}
