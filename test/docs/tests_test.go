package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// test is one of the project's.
type test struct{ dir, name, code string }

// theTests are all of them.
var theTests = sync.OnceValues(func() ([]test, error) {
	var all []test
	function := regexp.MustCompile(`(?ms)^func (?:\(\w+ \*?\w+\) )?(\w+)\([^\n]*\{\n.*?^}$`) // not those of one line
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel("../..", filepath.Dir(path))
		for _, m := range function.FindAllStringSubmatch(string(code), -1) {
			if strings.HasPrefix(m[0], "func "+m[1]+"(t *testing.T) {\n") {
				all = append(all, test{dir, m[1], m[0]})
			}
		}
		return err
	})
	return all, err
})

// findTest looks for a test that a page names. If dir is empty it may be
// anywhere. part, unless it is empty, is one of its parts, or of the cases of
// its table.
func findTest(t *testing.T, dir, name, part string) {
	t.Helper()
	all, err := theTests()
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`(?m)(t\.Run\(|\{|^\s*)"` + regexp.QuoteMeta(part) + `"[,:]`)
	found := false
	for _, x := range all {
		if x.name == name && (dir == "" || x.dir == dir) {
			found = true
			if part == "" || parts.MatchString(x.code) {
				return
			}
		}
	}
	if found {
		t.Errorf("%s has no part %q", name, part)
	} else {
		t.Errorf("there is no %s %s", dir, name)
	}
}
