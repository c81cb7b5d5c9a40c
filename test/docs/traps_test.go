package docs

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestTraps: docs/elk.md says of each of the fourteen traps which tests keep it
// shut, "`dir` TestName, a part of it", and those are all there.
func TestTraps(t *testing.T) {
	page, err := os.ReadFile("../../docs/elk.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Traps of the original")
	rows := regexp.MustCompile(`(?m)^\| (\d+) \|.*\| ([^|]+) \|$`).FindAllStringSubmatch(table, -1)
	if len(rows) != 14 {
		t.Fatalf("the table has %d traps, want fourteen", len(rows))
	}
	named := regexp.MustCompile("^(?:`([a-z0-9/]+)` )?(Test[A-Za-z]+)$")
	for i, row := range rows {
		if row[1] != strconv.Itoa(i+1) {
			t.Errorf("row %d is of trap %s", i+1, row[1])
		}
		dir, name := "apps/elk", ""
		for _, what := range regexp.MustCompile(`[,;] `).Split(row[2], -1) {
			m := named.FindStringSubmatch(what)
			if m == nil { // a part of the test before it
				findTest(t, dir, name, what)
				continue
			}
			if m[1] != "" {
				dir = m[1]
			}
			name = m[2]
			findTest(t, dir, name, "")
		}
	}
}
