package docs

import (
	"os"
	"path/filepath"
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
	if len(rows) != 15 {
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
			code := tests(t, m[1])
			// Names of parts have commas too.
			for _, name := range regexp.MustCompile(`(?:^|, )Test`).Split(m[2], -1)[1:] {
				named++
				name, part, _ := strings.Cut("Test"+name, "/")
				body, ok := code[name]
				if !ok || !strings.Contains(body, strconv.Quote(part)) && part != "" {
					t.Errorf("row %s: there is no %s/%s in %s", row[1], name, part, m[1])
				}
			}
		}
		if named == 0 {
			t.Errorf("row %s names no test", row[1])
		}
	}
}

// tests are the tests of a package, by name, with their code.
func tests(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		code, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range regexp.MustCompile(`(?m)^func `).Split(string(code), -1) {
			if name, _, ok := strings.Cut(part, "(t *testing.T)"); ok {
				out[name] = part
			}
		}
	}
	return out
}
