package unit

import (
	"fmt"
	"strings"
	"testing"
)

func TestLife(t *testing.T) {
	for _, c := range []struct{ text, want, problem string }{
		{"Retries=3/10m", "{{3 10m0s} false false [] [] {false 0 0s false}}", ""},
		{"Retries=2\nRunOnce=yes", "{{2 10m0s} true false [] [] {false 0 0s false}}", ""},
		{"Singleton=yes\nAfter=a.service b@1.service\nAfter=a.service\nRequires=c.service", "{{0 0s} false true [a.service b@1.service] [c.service] {false 0 0s false}}", ""},
		{"Update=rolling", "{{0 0s} false false [] [] {true 1 0s false}}", ""},
		{"Update=rolling max=2 gate=10s rollback=yes", "{{0 0s} false false [] [] {true 2 10s true}}", ""},
		{"Update=at-once", "{{0 0s} false false [] [] {false 0 0s false}}", ""},
		{"Update=slow", "", "begins with neither rolling nor at-once"},
		{"Update=rolling max=0", "", "at least one unit has to change"},
		{"Update=rolling gate=x", "", "no positive duration"},
		{"Update=rolling speed=1", "", `"speed=1" is none of`},
		{"Retries=many", "", "is no number of retries"},
		{"Retries=3/0s", "", "no positive duration"},
		{"After=a", "", "has no type"},
		{"Requires=a@.service", "", "is a template"},
		{"After=u.service", "", "names the unit itself"},
		{"Singleton=yes\n[X-Fleet]\nGlobal=yes", "", "Singleton= and Global="},
		{"RunOnce=yes\n[X-Fleet]\nGlobal=yes", "", "RunOnce= and Global="},
	} {
		s, err := SpecOf("u.service", "[X-Plasmid]\n"+c.text+"\n")
		switch {
		case c.problem != "":
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%q: %v, want %s", c.text, err, c.problem)
			}
		case err != nil:
			t.Errorf("%q: %v", c.text, err)
		default:
			if have := fmt.Sprint(s.Life); have != c.want {
				t.Errorf("%q: %s, want %s", c.text, have, c.want)
			}
		}
	}
}
