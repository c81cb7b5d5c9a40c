package app

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/apps.md lists what app.hcl knows, no more and no less.
func TestReference(t *testing.T) {
	data, err := os.ReadFile("../../docs/apps.md")
	if err != nil {
		t.Fatal(err)
	}
	_, reference, ok := strings.Cut(string(data), "\n## app.hcl\n")
	if !ok {
		t.Fatal("docs/apps.md has no reference")
	}
	sections := map[string]string{}
	for _, s := range strings.Split(reference, "\n### ")[1:] {
		name, text, _ := strings.Cut(s, "\n")
		sections[name] = text
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|")
	for name, block := range map[string]any{
		"variable": variableBlock{}, "app": appBlock{}, "certificate": certificateBlock{},
		"image": imageBlock{}, "unit": unitBlock{}, "front": Front{},
	} {
		var want, have []string
		typ := reflect.TypeOf(block)
		for i := range typ.NumField() {
			tag, kind, _ := strings.Cut(typ.Field(i).Tag.Get("hcl"), ",")
			if tag != "" && kind != "label" {
				want = append(want, tag)
			}
		}
		for _, m := range row.FindAllStringSubmatch(sections[name], -1) {
			have = append(have, m[1])
		}
		slices.Sort(want)
		slices.Sort(have)
		if !slices.Equal(want, have) {
			t.Errorf("docs/apps.md has of %s: %v; the program: %v", name, have, want)
		}
	}
}
