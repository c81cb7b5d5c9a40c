package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// Unit is a unit with all that is known of it.
type Unit struct {
	Name   string     `json:"name"`
	Hash   string     `json:"hash"`
	Wish   store.Wish `json:"wish"`
	Global bool       `json:"global,omitempty"`
	App    string     `json:"app,omitempty"`
	Text   string     `json:"text,omitempty"` // if asked for
	// Done is set of a unit that runs once and has.
	Done *store.Done `json:"done,omitempty"`
	On   []Row       `json:"on"`
}

// Row is a unit on a machine.
type Row struct {
	Machine   string       `json:"machine"` // ID
	Name      string       `json:"name"`    // the machine's
	Address   string       `json:"address"`
	Hash      string       `json:"hash"`
	Wish      store.Wish   `json:"wish"`
	Reason    string       `json:"reason,omitempty"` // why it is there
	Silent    bool         `json:"silent,omitempty"` // the machine does not report
	State     *store.State `json:"state,omitempty"`
	PublicIP  string       `json:"publicIPv4,omitempty"`
	Placement int64        `json:"revision"`
}

// UnitList is the answer to a list.
type UnitList struct {
	Revision int64  `json:"revision"`
	Units    []Unit `json:"units"`
}

// Change is one wish in a request to change units.
type Change struct {
	Name    string     `json:"name"`
	Text    string     `json:"text,omitempty"`
	Wish    store.Wish `json:"wish,omitempty"`
	Replace bool       `json:"replace,omitempty"`
	Delete  bool       `json:"delete,omitempty"`
	// Absent, with Delete: that there is no such unit is no error, because a
	// request whose answer was lost may have deleted it.
	Absent bool `json:"absent,omitempty"`
}

// Applied is the answer to it.
type Applied struct {
	Revision int64 `json:"revision"` // 0: nothing had to change
}

// longest is how long a list waits for a change at most.
const longest = 30 * time.Second

// listUnits lists units; ?unit= restricts it to some, ?text=1 adds their texts.
// With ?after=REVISION it waits until the view is newer.
func (s *server) listUnits(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if after := q.Get("after"); after != "" {
		revision, err := strconv.ParseInt(after, 10, 64)
		if err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("after=%q is no revision", after))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), longest)
		defer cancel()
		_ = s.Mirror.Wait(ctx, revision+1) // what is there then is the answer
	}
	v, ok := s.readable(w)
	if !ok {
		return
	}
	list := UnitList{Revision: v.Revision, Units: []Unit{}}
	names := q["unit"]
	if len(names) == 0 {
		names = sortedNames(v.Units)
	}
	for _, n := range names {
		u, exists := v.Units[n]
		_, placed := v.Placements[n]
		_, running := v.States[n]
		if (exists || placed || running) && visible(caller(r), v, n) {
			list.Units = append(list.Units, describe(v, n, u, q.Get("text") != ""))
		}
	}
	write(w, http.StatusOK, list)
}

// visible reports whether a caller may know of a unit: an app sees its own.
func visible(c Caller, v *store.View, name string) bool {
	if c.Role != RoleApp {
		return true
	}
	spec, err := unit.SpecOf(name, v.Units[name].Text)
	return err == nil && c.App != "" && spec.App == c.App
}

func describe(v *store.View, name string, u store.Unit, text bool) Unit {
	out := Unit{Name: name, Hash: u.Hash, Wish: u.Wish, On: []Row{}}
	if text {
		out.Text = u.Text
	}
	if spec, err := unit.SpecOf(u.Name, u.Text); err == nil {
		out.Global, out.App = spec.Global, spec.App
	}
	if d, ok := v.Done[name]; ok && d.Hash == u.Hash {
		out.Done = &d
	}
	machines := map[string]bool{}
	for m := range v.Placements[name] {
		machines[m] = true
	}
	for m := range v.States[name] {
		machines[m] = true
	}
	for _, id := range sortedNames(machines) {
		m, alive := v.Machines[id]
		if !alive {
			m = v.Known[id]
		}
		p := v.Placements[name][id]
		row := Row{Machine: id, Name: m.Name, Address: m.PrivateIPv4, PublicIP: m.PublicIPv4, Hash: p.Hash, Wish: p.Wish, Reason: p.Reason, Silent: !alive, Placement: p.Revision}
		if st, ok := v.States[name][id]; ok {
			row.State = &st
		}
		out.On = append(out.On, row)
	}
	return out
}

func (s *server) applyUnits(w http.ResponseWriter, r *http.Request) {
	var changes []Change
	if err := decodeBody(r, &changes); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	var out []store.UnitChange
	for _, c := range changes {
		u := store.UnitChange{Name: c.Name, Text: c.Text, Wish: c.Wish, Replace: c.Replace, Delete: c.Delete, Absent: c.Absent}
		if err := check(u); err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		out = append(out, u)
	}
	revision, err := s.Store.ApplyUnits(r.Context(), out)
	if err != nil {
		failStore(w, err)
		return
	}
	if revision > 0 {
		for _, u := range out {
			note(r, revision, noted(u))
		}
	}
	s.settle(r.Context(), revision)
	write(w, http.StatusOK, Applied{revision})
}

// Machine is a machine with what the cluster knows of it.
type Machine struct {
	store.Machine
	Alive  bool `json:"alive"` // it reports
	Leader bool `json:"leader,omitempty"`
	Units  int  `json:"units"`
	// Order is what an operator wants of it; nil: that it serves as usual.
	Order *store.Order `json:"order,omitempty"`
}

func (s *server) listMachines(w http.ResponseWriter, _ *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	units := map[string]int{}
	for _, on := range v.Placements {
		for m := range on {
			units[m]++
		}
	}
	out := []Machine{}
	for _, id := range sortedNames(v.Known) {
		m, alive := v.Machines[id]
		if !alive {
			m = v.Known[id]
		}
		m.Metadata = v.MachineMetadata(id)
		row := Machine{m, alive, v.Leader == id, units[id], nil}
		if o, ok := v.Orders[id]; ok {
			row.Order = &o
		}
		out = append(out, row)
	}
	write(w, http.StatusOK, out)
}

// reasons says of units that run nowhere why that is so. The leader knows.
func (s *server) reasons(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	if s.elsewhere(w, r, v) {
		return
	}
	out := map[string][]schedule.Verdict{}
	unplaced := s.Unplaced()
	for _, n := range r.URL.Query()["unit"] {
		if why, ok := unplaced[n]; ok {
			out[n] = why
		}
	}
	if len(r.URL.Query()["unit"]) == 0 {
		out = unplaced
	}
	write(w, http.StatusOK, out)
}
