package join

import (
	"slices"
	"testing"

	"plasmid/runtime/api"
	"plasmid/runtime/store"
)

func TestFormer(t *testing.T) {
	m := func(id, name string, alive bool) api.Machine {
		return api.Machine{Machine: store.Machine{ID: id, Name: name}, Alive: alive}
	}
	machines := []api.Machine{m("1", "t-core-1", true), m("2", "t-core-2", false), m("3", "t-core-2", true), m("4", "t-core-3", false), m("5", "t-core-2", false)}
	// Another that lives and has the name is somebody's mistake, and no former one.
	if got := former(machines, "t-core-2", "6"); !slices.Equal(got, []string{"2", "5"}) {
		t.Errorf("%v", got)
	}
	if got := former(machines, "t-core-3", "4"); got != nil {
		t.Errorf("a machine was to be forgotten that has just joined: %v", got)
	}
}
