package app

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"plasmid/runtime/template"
	"plasmid/runtime/unit"
)

// The guide's files are an app, as they stand there.
func TestGuide(t *testing.T) {
	data, err := os.ReadFile("../../docs/apps.md")
	if err != nil {
		t.Fatal(err)
	}
	guide, _, _ := strings.Cut(string(data), "\n## Commands\n")
	files := map[string]string{}
	for _, m := range regexp.MustCompile("`([A-Za-z./]+)`[^`\n]*:\n\n((?:    .*\n|\n)+)").FindAllStringSubmatch(guide, -1) {
		text := regexp.MustCompile("(?m)^    ").ReplaceAllString(m[2], "")
		files[m[1]] = strings.TrimSpace(text) + "\n"
	}
	a, err := Load(dirWith(t, files), nil)
	if err != nil {
		t.Fatalf("%v\nfiles: %v", err, files)
	}
	for _, u := range a.Units {
		s, err := unit.SpecOf(u.Name, a.text(u, map[string]string{"counter": "c@sha256:0", "web": "w@sha256:0"}))
		if err != nil || len(s.Images) != 1 || s.Ready.Kind != "http" {
			t.Errorf("%s: %+v %v", u.Name, s, err)
		}
	}
	rs, err := template.LoadResources(filepath.Join(a.Dir, "web", "confd.d"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := rs[0].Parse(); err != nil {
		t.Error(err)
	}
}

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
		"variable": variableBlock{}, "app": appBlock{}, "certificate": certificateBlock{}, "secret": secretBlock{},
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
