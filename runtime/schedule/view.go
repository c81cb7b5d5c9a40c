package schedule

import "plasmid/runtime/unit"

// View is what is known of the cluster at one moment.
type View struct {
	Units    []Unit
	Machines []Machine
	Placed   []Placed
}

// Unit is what the user wants.
type Unit struct {
	Spec unit.Spec
	Wish string // inactive, loaded or launched
	Hash string
}

// Machine is a node. A machine that holds units and is missing from the view
// counts as suspect: not to know of it is no reason to move anything.
type Machine struct {
	ID       string
	Metadata map[string]string
	Gone     bool // its lease expired and its probe failed: it loses its units
	Suspect  bool // it does not report but answers: it keeps its units, gets none
	Cordoned bool // it keeps its units, gets none
}

// Placed is a unit that was put on a machine before.
type Placed struct {
	Unit, Machine string
	Hash          string
	Wish          string
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
}
