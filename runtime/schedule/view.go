package schedule

import (
	"slices"

	"plasmid/runtime/unit"
)

// View is what is known of the cluster at one moment.
type View struct {
	Units    []Unit
	Machines []Machine
	Placed   []Placed
	// Rebalance asks to even out the numbers of units.
	Rebalance bool
	// Budget is how many units may be on the move at a time, from machines that
	// are being drained or because of Rebalance; at least one is.
	Budget int
}

// Unit is what the user wants.
type Unit struct {
	Spec unit.Spec
	Wish string // inactive, loaded or launched
	Hash string
	// Done is set of a RunOnce= unit that ran to its end, and says how and
	// where: it is placed nowhere any more.
	Done string
	// Ready is set when the unit does its work, everywhere it is.
	Ready bool
	// Avoid has machines that the unit must not go to, and why, as a Verdict
	// has it.
	Avoid map[string]string
}

// Machine is a node. A machine that holds units and is missing from the view
// counts as suspect: not to know of it is no reason to move anything.
type Machine struct {
	ID       string
	Name     string
	Metadata map[string]string
	CPU      int  // thousandths of a processor; 0: not known, and not counted
	Memory   int  // MiB; 0: not known, and not counted
	Gone     bool // its lease expired and its probe failed: it loses its units
	Suspect  bool // it does not report but answers: it keeps its units, gets none
	Cordoned bool // it keeps its units, gets none
	Draining bool // it gets no units, and those it has go elsewhere, as the budget allows
}

// Placed is a unit that was put on a machine before.
type Placed struct {
	Unit, Machine string
	Hash          string
	Wish          string
	// Moving is set of a unit that was moved here by a drain or a rebalance
	// and has not come up yet: it counts against the budget.
	Moving bool
	// Ready is set when the unit has been ready there, with this hash, for as
	// long as its Update= asks.
	Ready bool
	// Failed is set when it failed there with this hash, or was given up.
	Failed bool
	// Back is set when it can be rolled back: it was changed a short time ago,
	// and not by a roll-back.
	Back bool
}

// Op is what a decision does.
type Op string

const (
	Place  Op = "place"  // on a machine that does not have it
	Update Op = "update" // its text or wish changed where it is
	Remove Op = "remove" // from a machine
)

// Decision is one change. A move is a Remove and a Place, in that order.
type Decision struct {
	Op      Op
	Unit    string
	Machine string
	Reason  string
	// Moving is set of a Place that moves a unit for a drain or a rebalance.
	Moving bool
}

// Verdict is why one machine can't run a unit, as the end of a sentence that
// begins with the machine: "lacks metadata role=db".
type Verdict struct {
	Machine string `json:"machine"`
	Why     string `json:"why"`
}

// Result is what Decide found.
type Result struct {
	Decisions []Decision
	// Unplaced has, for every unit that should be somewhere and is nowhere,
	// what each machine lacks. A unit for which there was no machine to ask
	// has an empty list.
	Unplaced map[string][]Verdict
	// Stuck has, for every unit that is to leave its machine, to change or to
	// be started and can't yet, what it waits for.
	Stuck map[string]string
	// RollBack has the units whose update failed and that are to get their old
	// text back, and why.
	RollBack map[string]string
	// Balanced is set when Rebalance was asked for and nothing is left to do.
	Balanced bool
}

// Apply is the view after the decisions were carried out, and everything that
// was placed or changed has come up.
func Apply(v View, r Result) View {
	units := make(map[string]Unit, len(v.Units))
	for _, u := range v.Units {
		units[u.Spec.Name] = u
	}
	changed, ready := map[[2]string]bool{}, map[string]bool{}
	for _, d := range r.Decisions {
		changed[[2]string{d.Unit, d.Machine}] = true
	}
	v.Placed = slices.DeleteFunc(slices.Clone(v.Placed), func(p Placed) bool { return changed[[2]string{p.Unit, p.Machine}] })
	for i := range v.Placed {
		v.Placed[i].Moving = false
	}
	for _, d := range r.Decisions {
		if d.Op != Remove {
			u := units[d.Unit]
			v.Placed = append(v.Placed, Placed{Unit: d.Unit, Machine: d.Machine, Hash: u.Hash, Wish: u.Wish, Ready: true})
			ready[d.Unit] = true
		}
	}
	v.Units = slices.Clone(v.Units)
	for i := range v.Units {
		v.Units[i].Ready = v.Units[i].Ready || ready[v.Units[i].Spec.Name]
	}
	return v
}
