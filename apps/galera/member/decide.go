// Package member runs one member of a Galera cluster: it decides with the
// others, through etcd, who starts the cluster and who joins it.
package member

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Position is how far a member's data goes: Galera's name of the cluster's
// history and the number of the last write-set in it.
type Position struct {
	UUID  string `json:"uuid,omitempty"`
	Seqno int64  `json:"seqno"` // Unknown until the data was looked at
}

// Unknown is the number that Galera leaves behind when a server was not shut
// down.
const Unknown = -1

// Empty reports whether there is no data that could be of use.
func (p Position) Empty() bool { return p.UUID == "" }

// unread is the position of data whose grastate.dat a crash has spoilt; the
// data itself may be whole.
var unread = Position{UUID: "unread", Seqno: Unknown}

func (p Position) String() string { return fmt.Sprintf("%s:%d", p.UUID, p.Seqno) }

// Phase is what a member's server does.
type Phase string

// Phases. Only a stopped server's position is certain to stay as it is.
const (
	Stopped  Phase = "stopped"
	Starting Phase = "starting" // runs, and is not in a primary component
	Primary  Phase = "primary"  // takes part in the cluster
)

// Live is what a running supervisor says of its member. It is on a lease.
type Live struct {
	Machine  string   `json:"machine"`
	Address  string   `json:"address"` // at which other members reach it
	Phase    Phase    `json:"phase"`
	Position Position `json:"position,omitzero"` // when stopped
	Why      string   `json:"why,omitempty"`
}

// Known is a member that may hold the latest writes. It stays known while it is
// down, until a running cluster has seen that it goes on without it.
type Known struct {
	Machine string `json:"machine"`
	Address string `json:"address"`
}

// Cluster is the record of the only bootstrap there ever is.
type Cluster struct {
	UUID string `json:"uuid"`
	By   string `json:"by"`
}

// View is what etcd has at one revision. Members are named by their data.
type View struct {
	Cluster *Cluster         `json:"cluster,omitempty"` // nil: never bootstrapped
	Claim   string           `json:"claim,omitempty"`   // the member that alone may start the cluster now
	Known   map[string]Known `json:"known"`
	Live    map[string]Live  `json:"live"`
}

// Step is what a member whose server is stopped does next.
type Step string

// Steps.
const (
	Bootstrap Step = "bootstrap" // claim, and make a new cluster
	Recover   Step = "recover"   // claim, and start the cluster from its own data
	Join      Step = "join"      // a cluster that runs
	Examine   Step = "examine"   // find out how far the data goes
	Wait      Step = "wait"      // until the view changes
	Refuse    Step = "refuse"    // until an operator has seen to it
)

// Action is a step with what it needs.
type Action struct {
	Step  Step
	Peers []string // addresses, to join
	Why   string
}

func wait(format string, args ...any) Action {
	return Action{Step: Wait, Why: fmt.Sprintf(format, args...)}
}

// Decide says what a member does whose server is stopped and whose data is at
// own. examined says that the data was looked at already: if its number is
// unknown still, it can't be read.
//
// A cluster is started from data only when every member that may hold the
// latest writes is there with its server stopped, by the one that is furthest:
// a write that was acknowledged is on the disk of the member that took it, and
// write-sets are committed in one order everywhere.
func Decide(self string, own Position, examined bool, v View) Action {
	unknown := !own.Empty() && own.Seqno == Unknown
	if unknown && !examined {
		return Action{Step: Examine} // also to join, so that only what is missing is sent
	}
	if v.Cluster == nil {
		return first(self, own, v)
	}
	if !own.Empty() && own != unread && own.UUID != v.Cluster.UUID {
		return Action{Step: Refuse, Why: fmt.Sprintf("the data here is of cluster %s, this cluster is %s; move it away to join with a copy of this cluster's", own.UUID, v.Cluster.UUID)}
	}
	if peers := v.primaries(self); len(peers) > 0 {
		return Action{Step: Join, Peers: peers}
	}
	if unknown {
		return wait("the cluster is down, and the data here can't be read")
	}
	if v.Claim != "" {
		return wait("%s is starting the cluster", v.name(v.Claim))
	}
	return again(self, v)
}

// first is Decide before there ever was a cluster.
func first(self string, own Position, v View) Action {
	if peers := v.primaries(self); len(peers) > 0 { // etcd was made anew
		return wait("there is a cluster at %s, which has not told etcd of itself yet", strings.Join(peers, ", "))
	}
	if !own.Empty() {
		return Action{Step: Refuse, Why: fmt.Sprintf("there is data of cluster %s here and etcd knows of no cluster; adopt it, or move it away", own.UUID)}
	}
	for _, id := range slices.Sorted(maps.Keys(v.Live)) {
		if id != self && !v.Live[id].Position.Empty() {
			return wait("%s has data of cluster %s, of which etcd knows nothing", v.name(id), v.Live[id].Position.UUID)
		}
	}
	if v.Claim != "" {
		return wait("%s is making the cluster", v.name(v.Claim))
	}
	return Action{Step: Bootstrap}
}

// again is Decide when there was a cluster and no member of it runs.
func again(self string, v View) Action {
	var missing []string
	best, far := "", Position{Seqno: Unknown}
	for _, id := range slices.Sorted(maps.Keys(v.Known)) {
		l, ok := v.Live[id]
		if !ok || l.Phase != Stopped || !l.Position.Empty() && l.Position.Seqno == Unknown {
			missing = append(missing, v.name(id))
			continue
		}
		if l.Position.UUID == v.Cluster.UUID && l.Position.Seqno > far.Seqno {
			best, far = id, l.Position
		}
	}
	switch {
	case len(missing) > 0:
		return wait("the cluster is down; waiting to hear how far the data goes of %s", strings.Join(missing, ", "))
	case best == "":
		return wait("the cluster is down, and no member has its data any more")
	case best != self:
		return wait("the cluster is down; %s, which is furthest, starts it at %d", v.name(best), far.Seqno)
	}
	return Action{Step: Recover}
}

// primaries are the addresses of the others that are in the cluster.
func (v View) primaries(self string) []string {
	var peers []string
	for _, id := range slices.Sorted(maps.Keys(v.Live)) {
		if l := v.Live[id]; id != self && l.Phase == Primary {
			peers = append(peers, l.Address)
		}
	}
	return peers
}

// name is how people are told of a member.
func (v View) name(id string) string {
	if l, ok := v.Live[id]; ok {
		return fmt.Sprintf("%s (on %s)", id, l.Machine)
	}
	if k, ok := v.Known[id]; ok {
		return fmt.Sprintf("%s (on %s)", id, k.Machine)
	}
	return id
}

// Server is what a member's own server says of itself.
type Server struct {
	Primary bool
	Synced  bool // and ready for queries
	Closed  bool // has given up its connections to the others
	UUID    string
	Queue   int           // write-sets received and not applied
	Members []string      // addresses of all in its view of the cluster
	Cut     time.Duration // how long it has been running outside the cluster
}

// How long a server may run outside the cluster before it is stopped: shorter
// if no cluster runs that it could find its way back into.
const (
	patience       = 10 * time.Second
	longPatience   = 60 * time.Second
	closedPatience = 3 * time.Second // it does not come back by itself
)

// Care is what is to be done about a server that runs.
type Care struct {
	Stop   string   // not empty: stop it, and why
	Record bool     // tell etcd of the cluster, for etcd was made anew
	Enter  bool     // become known: it may soon hold writes no other has
	Forget []string // known members without which the cluster goes on
}

// Attend says what a running server needs.
//
// A member is forgotten only by one that is in the cluster and has applied all
// it has received, when neither its supervisor lives nor its server is in the
// cluster. From then on its data is behind.
func Attend(self string, s Server, v View) Care {
	_, known := v.Known[self]
	if !s.Primary {
		limit, why := patience, "no member is in the cluster"
		if len(v.primaries(self)) > 0 {
			limit, why = longPatience, "it does not find its way back into the cluster"
		}
		if s.Closed {
			limit, why = closedPatience, "it has left the cluster"
		}
		if s.Cut > limit {
			return Care{Stop: why}
		}
		return Care{}
	}
	c := Care{Enter: !known}
	if s.Queue > 0 || !s.Synced {
		return c
	}
	// Only after it is known itself: it has all that members have which etcd
	// knows no more.
	c.Record = known && v.Cluster == nil
	for _, id := range slices.Sorted(maps.Keys(v.Known)) {
		if _, live := v.Live[id]; id == self || live {
			continue
		}
		if !slices.Contains(s.Members, v.Known[id].Address) || v.lives(v.Known[id].Address) {
			c.Forget = append(c.Forget, id)
		}
	}
	return c
}

// lives reports whether the server at an address is that of a live member: a
// machine whose disk was replaced has a new member where the old one was.
func (v View) lives(address string) bool {
	for _, l := range v.Live {
		if l.Address == address {
			return true
		}
	}
	return false
}
