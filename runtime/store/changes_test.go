package store

import (
	"maps"
	"reflect"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// A follower is told of every key that makes a view different, and of no other
// unit.
func TestChangesAreNoted(t *testing.T) {
	for key, value := range map[string]any{
		unitKey("a.service"):             Unit{Name: "a.service", Wish: Launched},
		placementKey("m", "a.service"):   Placement{Machine: "m", Unit: "a.service"},
		stateKey("m", "a.service"):       State{Machine: "m", Unit: "a.service"},
		avoidKey("a.service", "m"):       Avoid{Unit: "a.service", Machine: "m"},
		doneKey("a.service"):             Done{Unit: "a.service"},
		machineKey("m"):                  Machine{ID: "m"},
		knownKey("m"):                    Machine{ID: "m"},
		metadataKey("m", "zone"):         "a",
		orderKey("m"):                    Order{Drain: true},
		keyRebalance:                     Rebalance{Budget: 1},
		rebootKey("g"):                   map[string]any{},
		keySchema:                        Identity{ID: "x"},
		keyElection:                      "m",
		dirSingletons + "a.service":      "m",
		placementKey("m", "t@1.service"): Placement{Machine: "m", Unit: "t@1.service"},
	} {
		before := newView()
		e := before.edit()
		if err := e.apply(key, &mvccpb.KeyValue{Key: []byte(DefaultPrefix + key), Value: []byte(encode(value))}, false); err != nil {
			t.Fatal(key, err)
		}
		c := Changes{Units: map[string]struct{}{}}
		c.note(key)
		after := &e.View
		units := map[string]struct{}{}
		for name := range after.Units {
			units[name] = struct{}{}
		}
		for _, on := range []any{after.Placements, after.States, after.Avoid, after.Done} {
			for _, name := range reflect.ValueOf(on).MapKeys() {
				units[name.String()] = struct{}{}
			}
		}
		if !maps.Equal(c.Units, units) {
			t.Errorf("%s: units %v are noted, %v are different", key, c.Units, units)
		}
		machines := len(after.Machines)+len(after.Known)+len(after.Metadata)+len(after.Orders) > 0 || after.Rebalance != nil
		if c.Machines != machines || c.All {
			t.Errorf("%s: noted is %+v; machines are different: %v", key, c, machines)
		}
	}
}

func TestFollower(t *testing.T) {
	st, _ := newStore(t)
	m := st.Mirror(t.Context())
	<-m.Ready()
	f := m.Follow()
	defer f.Close()
	if _, c := f.Next(); !c.All {
		t.Error("at first not all is changed")
	}
	if _, c := f.Next(); c.All || c.Machines || len(c.Units) > 0 {
		t.Errorf("changed without a change: %+v", c)
	}
	var r int64
	for _, name := range []string{"a.service", "b.service"} {
		var err error
		if r, err = st.ApplyUnits(t.Context(), []UnitChange{{Name: name, Text: "[Service]\n", Wish: Launched}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Wait(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	v, c := f.Next()
	if len(v.Units) != 2 || len(c.Units) != 2 || c.All || c.Machines {
		t.Errorf("two units are new: %+v", c)
	}
	join(t, st, "m", 10*time.Second)
	eventually(t, m, "the machine is there", func(v *View) bool { return len(v.Machines) == 1 })
	if _, c := f.Next(); !c.Machines || len(c.Units) > 0 {
		t.Errorf("a machine is new: %+v", c)
	}
	st.beginAnew()
	eventually(t, m, "the store was listed anew", func(*View) bool {
		_, c := f.Next()
		return c.All
	})
}
