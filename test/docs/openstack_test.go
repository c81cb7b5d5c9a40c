package docs

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestOpenStackFailures: each class of failure names tests that exist, parts
// included.
func TestOpenStackFailures(t *testing.T) {
	page, err := os.ReadFile("../../docs/openstack-failures.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (\d+) \|.*\| ([^|]+) \|$`).FindAllStringSubmatch(string(page), -1)
	if len(rows) != 16 {
		t.Errorf("%d rows", len(rows))
	}
	for i, row := range rows {
		if row[1] != strconv.Itoa(i+1) {
			t.Errorf("row %s is the %dth", row[1], i+1)
		}
		named := 0
		for _, in := range strings.Split(row[2], "; ") {
			m := regexp.MustCompile("^`([a-z/]+)` (.+)$").FindStringSubmatch(in)
			if m == nil {
				t.Errorf("row %s: %q names no package", row[1], in)
				continue
			}
			// Names of parts have commas too.
			for _, name := range regexp.MustCompile(`(?:^|, )Test`).Split(m[2], -1)[1:] {
				named++
				name, part, _ := strings.Cut("Test"+name, "/")
				findTest(t, m[1], name, part)
			}
		}
		if named == 0 {
			t.Errorf("row %s names no test", row[1])
		}
	}
}
