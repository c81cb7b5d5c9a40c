package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFaults: every fault in docs/faults.md has a test, and each test named
// exists, with its part.
func TestFaults(t *testing.T) {
	page, err := os.ReadFile("../../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`(Test\\w+)(?:: ([^`]+))?`")
	rows := 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| Fault") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "|\n"), " | ")
		if len(cells) != 4 {
			t.Errorf("%d cells: %s", len(cells), line)
			continue
		}
		tests := quoted.FindAllStringSubmatch(cells[3], -1)
		if len(tests) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range tests {
			findTest(t, "", m[1], m[2])
		}
	}
	if rows == 0 {
		t.Error("the page has no rows")
	}
}
