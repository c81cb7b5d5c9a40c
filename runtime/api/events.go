package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"plasmid/runtime/store"
)

// Event is something that happened in the cluster.
type Event struct {
	Revision int64  `json:"revision"` // of the store
	Kind     string `json:"kind"`     // one of EventKinds
	Unit     string `json:"unit,omitempty"`
	Machine  string `json:"machine,omitempty"` // ID
	Name     string `json:"name,omitempty"`    // the machine's
	Text     string `json:"text"`              // what happened, the end of a sentence about the unit or machine
}

// EventKinds are all kinds of events.
var EventKinds = []string{
	"submitted", "changed", "destroyed", // a unit, by its user
	"placed", "updated", "removed", // a unit on a machine, by the engine
	"state", "ready", "unready", // a unit on a machine, as systemd and its check see it
	"up", "lost", "joined", "forgotten", "metadata", // a machine
	"leader",  // the machine that decides, or none
	"current", // the first event: from here on all is reported
}

// events sends what happens from now on, an object for each line, until the
// client goes. ?unit= and ?machine= restrict it.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	units, machine := r.URL.Query()["unit"], r.URL.Query().Get("machine")
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	enc := json.NewEncoder(w)
	if enc.Encode(Event{Revision: v.Revision, Kind: "current", Text: "listening"}) != nil {
		return
	}
	flush := http.NewResponseController(w).Flush
	for {
		if flush() != nil {
			return
		}
		changed := s.Mirror.Changed()
		next := s.Mirror.View()
		for _, e := range diff(v, next) {
			if len(units) > 0 && !slices.Contains(units, e.Unit) || machine != "" && e.Name != machine && !strings.HasPrefix(e.Machine, machine) {
				continue
			}
			if enc.Encode(e) != nil {
				return
			}
		}
		if flush() != nil {
			return
		}
		v = next
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

// diff tells what happened between two views: machines first, then what users
// did, what the engine decided, and what came of it.
func diff(old, new *store.View) []Event {
	d := differ{old: old, new: new}
	d.machines()
	d.units()
	pairs(old.Placements, new.Placements, d.placement)
	pairs(old.States, new.States, d.state)
	return d.events
}

type differ struct {
	old, new *store.View
	events   []Event
}

func (d *differ) add(kind, unit, machine, format string, args ...any) {
	e := Event{Revision: d.new.Revision, Kind: kind, Unit: unit, Machine: machine, Text: fmt.Sprintf(format, args...)}
	if machine != "" {
		e.Name = cmp.Or(d.new.Machines[machine].Name, d.new.Known[machine].Name, d.old.Machines[machine].Name, d.old.Known[machine].Name)
	}
	d.events = append(d.events, e)
}

// same reports whether two maps are one and the same, as a view shares with
// the one before it what did not change.
func same[V any](a, b map[string]V) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// each calls f for every key of two maps whose value may differ, in order.
func each[V any](old, new map[string]V, f func(key string, old, new V, was, is bool)) {
	if same(old, new) {
		return
	}
	keys := sortedNames(new)
	for k := range old {
		if _, is := new[k]; !is {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		o, was := old[k]
		n, is := new[k]
		f(k, o, n, was, is)
	}
}

// pairs does so for maps of maps.
func pairs[V any](old, new map[string]map[string]V, f func(unit, machine string, old, new V, was, is bool)) {
	each(old, new, func(unit string, o, n map[string]V, _, _ bool) {
		each(o, n, func(machine string, a, b V, was, is bool) { f(unit, machine, a, b, was, is) })
	})
}

func (d *differ) machines() {
	each(d.old.Known, d.new.Known, func(id string, _, _ store.Machine, was, is bool) {
		switch {
		case !was:
			d.add("joined", "", id, "joined the cluster")
		case !is:
			d.add("forgotten", "", id, "left the cluster")
		}
	})
	each(d.old.Machines, d.new.Machines, func(id string, _, _ store.Machine, was, is bool) {
		switch {
		case is && !was:
			d.add("up", "", id, "reports")
		case was && !is:
			d.add("lost", "", id, "does not report any more")
		}
	})
	pairs(d.old.Metadata, d.new.Metadata, func(id, key string, a, b string, _, is bool) {
		switch {
		case !is:
			d.add("metadata", "", id, "lost the metadata %s that was set", key)
		case a != b:
			d.add("metadata", "", id, "has metadata %s=%s", key, b)
		}
	})
	switch {
	case d.old.Leader == d.new.Leader:
	case d.new.Leader == "":
		d.add("leader", "", "", "no machine leads")
	default:
		d.add("leader", "", d.new.Leader, "leads")
	}
}

func (d *differ) units() {
	each(d.old.Units, d.new.Units, func(name string, a, b store.Unit, was, is bool) {
		switch {
		case !was:
			d.add("submitted", name, "", "is known, to be %s", b.Wish)
		case !is:
			d.add("destroyed", name, "", "is to be no more")
		case a.Hash != b.Hash && a.Wish != b.Wish:
			d.add("changed", name, "", "has another text and is to be %s", b.Wish)
		case a.Hash != b.Hash:
			d.add("changed", name, "", "has another text")
		case a.Wish != b.Wish:
			d.add("changed", name, "", "is to be %s", b.Wish)
		}
	})
}

func (d *differ) placement(unit, machine string, a, b store.Placement, was, is bool) {
	switch {
	case !was:
		d.add("placed", unit, machine, "is placed there%s", because(b.Reason))
	case !is:
		d.add("removed", unit, machine, "is taken from there")
	case a.Hash != b.Hash:
		d.add("updated", unit, machine, "gets another text there")
	case a.Wish != b.Wish:
		d.add("updated", unit, machine, "is to be %s there", b.Wish)
	}
}

func (d *differ) state(unit, machine string, a, b store.State, _, is bool) {
	if !is {
		b = store.State{Active: "gone"}
	}
	if a.Active != b.Active || a.Sub != b.Sub || a.Message != b.Message {
		text := "is " + b.Active
		if b.Sub != "" {
			text += " (" + b.Sub + ")"
		}
		d.add("state", unit, machine, "%s%s", text, because(b.Message))
	}
	if a.Ready != b.Ready {
		if b.Ready {
			d.add("ready", unit, machine, "is ready")
		} else {
			d.add("unready", unit, machine, "is not ready any more")
		}
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}
