package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plasmid/runtime/store"
)

func TestDiff(t *testing.T) {
	m := func(name string) store.Machine { return store.Machine{Name: name} }
	base := &store.View{
		Revision: 1,
		Units:    map[string]store.Unit{"a": {Hash: "1", Wish: store.Launched}, "b": {Hash: "1", Wish: store.Loaded}},
		Machines: map[string]store.Machine{"1": m("m1")}, Known: map[string]store.Machine{"1": m("m1")},
		Placements: map[string]map[string]store.Placement{"a": {"1": {Hash: "1", Wish: store.Launched}}},
		States:     map[string]map[string]store.State{"a": {"1": {Active: "active", Sub: "running", Ready: true}}},
		Metadata:   map[string]map[string]string{"1": {"x": "y"}},
		Leader:     "1",
	}
	for _, tt := range []struct {
		name string
		edit func(v *store.View)
		want []string
	}{
		{"nothing", func(*store.View) {}, nil},
		{"submitted", func(v *store.View) {
			v.Units = map[string]store.Unit{"a": v.Units["a"], "b": v.Units["b"], "c": {Wish: store.Inactive}}
		}, []string{"submitted c  is known, to be inactive"}},
		{"destroyed", func(v *store.View) { v.Units = map[string]store.Unit{"b": v.Units["b"]} }, []string{"destroyed a  is to be no more"}},
		{"changed", func(v *store.View) {
			v.Units = map[string]store.Unit{"a": {Hash: "2", Wish: store.Launched}, "b": {Hash: "2", Wish: store.Launched}}
		}, []string{"changed a  has another text", "changed b  has another text and is to be launched"}},
		{"moved", func(v *store.View) {
			v.Known = map[string]store.Machine{"1": m("m1"), "2": m("m2")}
			v.Placements = map[string]map[string]store.Placement{"a": {"2": {Reason: "m1 is gone"}}}
		}, []string{"joined  m2 joined the cluster", "removed a m1 is taken from there", "placed a m2 is placed there: m1 is gone"}},
		{"updated", func(v *store.View) {
			v.Placements = map[string]map[string]store.Placement{"a": {"1": {Hash: "1", Wish: store.Loaded}}}
		}, []string{"updated a m1 is to be loaded there"}},
		{"failed", func(v *store.View) {
			v.States = map[string]map[string]store.State{"a": {"1": {Active: "failed", Sub: "failed", Message: "exit code 1"}}}
		}, []string{"state a m1 is failed (failed): exit code 1", "unready a m1 is not ready any more"}},
		{"unknown", func(v *store.View) { v.States = nil }, []string{"state a m1 is gone", "unready a m1 is not ready any more"}},
		{"lost", func(v *store.View) { v.Machines, v.Leader = nil, "" }, []string{"lost  m1 does not report any more", "leader   no machine leads"}},
		{"forgotten", func(v *store.View) { v.Known = nil }, []string{"forgotten  m1 left the cluster"}},
		{"metadata", func(v *store.View) { v.Metadata = map[string]map[string]string{"1": {"z": "1"}} },
			[]string{"metadata  m1 lost the metadata x that was set", "metadata  m1 has metadata z=1"}},
		{"leader", func(v *store.View) {
			v.Known = map[string]store.Machine{"1": m("m1"), "2": m("m2")}
			v.Leader = "2"
		}, []string{"joined  m2 joined the cluster", "leader  m2 leads"}},
	} {
		next := *base
		next.Revision = 2
		tt.edit(&next)
		var got []string
		for _, e := range diff(base, &next) {
			if e.Revision != 2 {
				t.Errorf("%s: revision %d", tt.name, e.Revision)
			}
			got = append(got, strings.Join([]string{e.Kind, e.Unit, e.Name, e.Text}, " "))
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}
