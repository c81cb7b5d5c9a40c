package store

import "time"

// Wish is what the user wants of a unit. The spellings are fleet's and appear
// on the wire as desiredState.
type Wish string

const (
	Inactive Wish = "inactive" // known to the cluster, on no machine
	Loaded   Wish = "loaded"   // on a machine, not started
	Launched Wish = "launched" // on a machine and started
)

// Valid reports whether w is one of the three wishes.
func (w Wish) Valid() bool { return w == Inactive || w == Loaded || w == Launched }

// Unit is what a user submitted: units/<unit>.
type Unit struct {
	Name string `json:"name"`
	Text string `json:"text"` // the unit file, verbatim
	Hash string `json:"hash"` // unit.Hash(Text)
	Wish Wish   `json:"wish"`

	Revision int64 `json:"-"` // etcd mod revision of the key
}

// Machine is a node's facts: machines/<id>, on the machine's lease.
type Machine struct {
	ID          string            `json:"id"`   // /etc/machine-id, 32 hex digits
	Name        string            `json:"name"` // host name
	PrivateIPv4 string            `json:"privateIPv4"`
	PublicIPv4  string            `json:"publicIPv4,omitempty"`
	Endpoint    string            `json:"endpoint"` // host:port of the mutual-TLS API
	Metadata    map[string]string `json:"metadata,omitempty"`
	BootID      string            `json:"bootID"`
	Version     string            `json:"version"`
	CPUs        int               `json:"cpus"`
	MemoryMiB   int               `json:"memoryMiB"`
	RebootGroup string            `json:"rebootGroup,omitempty"` // whose lock it takes to reboot

	Revision int64 `json:"-"`
	Lease    int64 `json:"-"`
}

// Placement is the engine's decision that a machine runs a unit:
// placements/<machine>/<unit>. It carries the unit's text so that an agent
// needs no other key than those of its own prefix.
type Placement struct {
	Machine string `json:"machine"`
	Unit    string `json:"unit"`
	Hash    string `json:"hash"`
	Text    string `json:"text"`
	Wish    Wish   `json:"wish"` // Loaded or Launched
	Reason  string `json:"reason,omitempty"`
	// Moved is when a drain or a rebalance brought it here; zero: neither did.
	Moved time.Time `json:"moved,omitzero"`
	// Previous is the text before the last change of a unit that is updated
	// rolling, and Changed when that was; empty after it was rolled back.
	Previous string    `json:"previous,omitempty"`
	Changed  time.Time `json:"changed,omitzero"`

	Revision int64 `json:"-"`
}

// State is what systemd says of a unit on a machine: states/<machine>/<unit>,
// on the machine's lease, written on change only.
type State struct {
	Machine string    `json:"machine"`
	Unit    string    `json:"unit"`
	Hash    string    `json:"hash"`
	Load    string    `json:"load"`              // systemd LoadState
	Active  string    `json:"active"`            // systemd ActiveState
	Sub     string    `json:"sub"`               // systemd SubState
	Ready   bool      `json:"ready"`             // active, and its readiness check (if any) passes
	Message string    `json:"message,omitempty"` // why it is not what was wished, in a sentence
	GaveUp  bool      `json:"gaveUp,omitempty"`  // and it is not tried again until its wish changes
	Ended   bool      `json:"ended,omitempty"`   // it was started and has ended since; nobody starts it again
	Since   time.Time `json:"since"`             // of the last change of Active

	Revision int64 `json:"-"`
}
