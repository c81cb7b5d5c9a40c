package unit

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReferencePage holds docs/units.md against the code: every option of
// every section, every legacy spelling and every type, and no others.
func TestReferencePage(t *testing.T) {
	data, err := os.ReadFile("../../docs/units.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{} // by heading
	heading := ""
	row := regexp.MustCompile("^\\| `([A-Za-z-]+)=?` \\|")
	for line := range strings.Lines(string(data)) {
		if h := strings.TrimLeft(line, "#"); len(h) < len(line) {
			heading = strings.TrimSpace(h)
		}
		if m := row.FindStringSubmatch(line); m != nil {
			documented[heading] = append(documented[heading], m[1])
		}
	}
	for h, want := range map[string][]string{
		"[X-Fleet]":        fleetOptions,
		"Legacy spellings": slices.Collect(maps.Keys(legacy)),
		"[X-Plasmid]":      plasmidOptions,
		"[Install]":        installOptions,
		"Types":            Types,
	} {
		have, want := slices.Sorted(slices.Values(documented[h])), slices.Sorted(slices.Values(want))
		if !slices.Equal(have, want) {
			t.Errorf("%q: the page has\n%v, the code has\n%v", h, have, want)
		}
	}
}
