package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFaults: every fault in docs/faults.md has a test, and each test named
// exists, with its part.
func TestFaults(t *testing.T) {
	code := map[string]string{} // of the file that has the test
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			code[m[1]] += string(text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
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
			text, ok := code[m[1]]
			if !ok {
				t.Errorf("there is no %s", m[1])
				continue
			}
			part := regexp.MustCompile(`(?m)(t\.Run\(|\{|^\s*)"` + regexp.QuoteMeta(m[2]) + `"[,:]`)
			if m[2] != "" && !part.MatchString(text) {
				t.Errorf("%s has no part %q", m[1], m[2])
			}
		}
	}
	if rows == 0 {
		t.Error("the page has no rows")
	}
}
