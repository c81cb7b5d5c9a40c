package docs

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestFleetBehaviours: all 43 are mapped, each to a part of the test that
// exists.
func TestFleetBehaviours(t *testing.T) {
	page, err := os.ReadFile("../../docs/fleet-behaviours.md")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("../e2e/fleet_test.go")
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]bool{}
	for _, m := range regexp.MustCompile(`\{"([a-z ]+)", f\.\w+\}`).FindAllStringSubmatch(string(code), -1) {
		parts[m[1]] = false
	}
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| \w+ \| ([^|]+) \|`).FindAllStringSubmatch(string(page), -1)
	for i, m := range rows {
		part := strings.TrimSpace(m[2])
		if _, ok := parts[part]; !ok || m[1] != strconv.Itoa(i+1) {
			t.Errorf("row %s: part %q", m[1], part)
		}
		parts[part] = true
	}
	if len(rows) != 43 {
		t.Errorf("%d rows", len(rows))
	}
	for p, used := range parts {
		if !used && !strings.Contains(string(page), "*"+p+"*") {
			t.Errorf("part %q is not in the page", p)
		}
	}
}
