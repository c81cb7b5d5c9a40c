package config

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReferencePage holds docs/cluster.hcl.md against the code: every key of
// every block and every function, and no others.
func TestReferencePage(t *testing.T) {
	data, err := os.ReadFile("../../docs/cluster.hcl.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{} // by heading
	heading := ""
	row := regexp.MustCompile("^\\| `([a-z0-9_]+)` \\|")
	for line := range strings.Lines(string(data)) {
		if h := strings.TrimLeft(line, "#"); len(h) < len(line) && strings.HasPrefix(h, " ") {
			heading = strings.TrimSpace(h)
		}
		if m := row.FindStringSubmatch(line); m != nil {
			documented[heading] = append(documented[heading], m[1])
		}
		if heading == "Functions" && strings.HasPrefix(line, "`") && !strings.Contains(line, "(") {
			for _, name := range strings.Fields(line) {
				documented[heading] = append(documented[heading], strings.Trim(name, "`"))
			}
		}
	}
	want := map[string][]string{
		"Top level":            keysOf[fileBlock](),
		"variable":             keysOf[variableBlock](),
		"cluster":              keysOf[clusterBlock](),
		`provider "local"`:     keysOf[localBlock](),
		`provider "openstack"`: keysOf[openstackBlock](),
		"network":              keysOf[networkBlock](),
		"boot_volume":          keysOf[volumeBlock](),
		"image":                keysOf[imageBlock](),
		"nodes":                keysOf[nodesBlock](),
		"reboot":               keysOf[rebootBlock](),
		"app":                  keysOf[appBlock](),
		"Functions":            slices.Collect(maps.Keys(functions("."))),
	}
	for h, keys := range want {
		have := slices.Sorted(slices.Values(documented[h]))
		if slices.Sort(keys); !slices.Equal(have, keys) {
			t.Errorf("%q: the page has\n%v, the code has\n%v", h, have, keys)
		}
		delete(documented, h)
	}
	for h := range documented {
		t.Errorf("the page has a table under %q, which is no block", h)
	}
}

// keysOf lists the attributes and blocks that gohcl reads into T.
func keysOf[T any]() []string {
	var keys []string
	for f := range reflect.TypeFor[T]().Fields() {
		name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		if name != "" && kind != "label" {
			keys = append(keys, name)
		}
	}
	return keys
}
