package quadlet

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"plasmid/runtime/unit"
)

// TestUnit compares what is made of Quadlets with testdata/quadlet.txt, errors
// too. go test -rewrite writes it anew.
func TestUnit(t *testing.T) {
	used := map[string]bool{}
	datadriven.RunTest(t, "testdata/quadlet.txt", func(t *testing.T, d *datadriven.TestData) string {
		var name string
		d.ScanArgs(t, "name", &name)
		for line := range strings.Lines(d.Input) {
			k, _, _ := strings.Cut(line, "=")
			used[k] = true
		}
		out, err := Unit(name, d.Input+"\n")
		if err != nil {
			return "error: " + err.Error() + "\n"
		}
		again, err := Unit(name, d.Input+"\n")
		if err != nil || again != out {
			t.Errorf("the second time it is %q, %v", again, err)
		}
		if !Same(out, d.Input+"\n") || Same(out, d.Input+"\n\n") {
			t.Error("it does not know what it was made of")
		}
		f, err := unit.Parse(out)
		if err != nil || Is(f) != false {
			t.Errorf("what is made can't be read: %v", err)
		}
		// What is asked of its container is asked of the one that is run.
		before, err1 := unit.SpecOf(name, d.Input+"\n")
		after, err2 := unit.SpecOf(name, out)
		if err := errors.Join(err1, err2); err != nil || before.Container == "" || after.Container != before.Container {
			t.Errorf("its container is %q, and %q of what is made: %v", before.Container, after.Container, err)
		}
		return out
	})
	for k, r := range keys {
		if r.kind != refuse && !used[k] {
			t.Errorf("%s is in no case", k)
		}
	}
}

// TestRefusedKeys: each is refused with its line and a way out.
func TestRefusedKeys(t *testing.T) {
	for k, r := range keys {
		if r.kind != refuse {
			continue
		}
		_, err := Unit("a.service", "[Container]\nImage=a\n"+k+"=x\n")
		if err == nil || !strings.Contains(err.Error(), "a.service: line 3: "+k+"=x "+r.why) {
			t.Errorf("%s: %v", k, err)
		}
	}
}

func TestNotAQuadlet(t *testing.T) {
	const text = "[Service]\nExecStart=/bin/true"
	if got, err := Unit("a.service", text); err != nil || got != text {
		t.Errorf("%q %v", got, err)
	}
	if !Same(text, text) || Same(text, text+"\n") {
		t.Error("plain texts are the same when they are")
	}
}

// TestPage holds docs/quadlet.md against the keys.
func TestPage(t *testing.T) {
	data, err := os.ReadFile("../../docs/quadlet.md")
	if err != nil {
		t.Fatal(err)
	}
	honoured, refused, ok := strings.Cut(string(data), "## Keys that are refused")
	if !ok {
		t.Fatal("the page has no section of refused keys")
	}
	row := regexp.MustCompile("(?m)^\\| `(\\w+)=")
	list := func(text string) (ks []string) {
		for _, m := range row.FindAllStringSubmatch(text, -1) {
			ks = append(ks, m[1])
		}
		slices.Sort(ks)
		return ks
	}
	var wantHonoured, wantRefused []string
	for _, k := range Keys() {
		if keys[k].kind == refuse {
			wantRefused = append(wantRefused, k)
		} else {
			wantHonoured = append(wantHonoured, k)
		}
	}
	if have := list(honoured); !slices.Equal(have, wantHonoured) {
		t.Errorf("honoured: the page has\n%v, the code has\n%v", have, wantHonoured)
	}
	if have := list(refused); !slices.Equal(have, wantRefused) {
		t.Errorf("refused: the page has\n%v, the code has\n%v", have, wantRefused)
	}
}
