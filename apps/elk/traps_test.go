package elk

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// docs/elk.md says of each of the fourteen traps which tests keep it shut:
// "`dir` TestName, a part of it". Those are all there.
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
		dir, source := "apps/elk", ""
		for _, what := range regexp.MustCompile(`[,;] `).Split(row[2], -1) {
			m := named.FindStringSubmatch(what)
			if m == nil { // a part of the test before it
				if !strings.Contains(source, `t.Run("`+what+`", func(`) {
					t.Errorf("trap %s: no test has a part %q", row[1], what)
				}
				continue
			}
			if m[1] != "" {
				dir = m[1]
			}
			if source = testIn(t, dir, m[2]); source == "" {
				t.Errorf("trap %s: %s has no %s", row[1], dir, m[2])
			}
		}
	}
}

// testIn is the text of a test, empty if there is none of the name.
func testIn(t *testing.T, dir, name string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, rest, ok := strings.Cut(string(data), "\nfunc "+name+"(t *testing.T) {\n"); ok {
			text, _, _ := strings.Cut(rest, "\n}\n")
			return text
		}
	}
	return ""
}
