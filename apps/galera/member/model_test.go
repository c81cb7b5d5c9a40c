package member

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is a cluster whose members do as Decide and Attend say, with Galera's
// rules in few words: a component that has more than half of the last one's
// members goes on; a write is acknowledged when the component has it, and is on
// the disk of the one that took it, and sometime later on those of the others.
type model struct {
	t     *testing.T
	r     *rand.Rand
	etcd  View
	nodes []*node
	acked int64 // the furthest acknowledged write
	made  int
	log   []string
}

type node struct {
	id       string
	up       bool // its machine has power and its supervisor runs
	inside   bool // its server runs in the component
	outside  bool // its server runs and is in none
	disk     Position
	memory   int64 // received; on disk in time
	examined bool
}

func (m *model) say(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	for _, l := range m.log[max(0, len(m.log)-60):] {
		m.t.Log(l)
	}
	m.t.Fatalf(format, args...)
}

// inside are the members of the component that runs.
func (m *model) inside() []*node {
	var in []*node
	for _, n := range m.nodes {
		if n.inside {
			in = append(in, n)
		}
	}
	return in
}

// lose takes members out of the component at once; the rest goes on if it is
// more than half.
func (m *model) lose(graceful bool, gone ...*node) {
	was := len(m.inside())
	for _, n := range gone {
		n.inside = false
	}
	left := m.inside()
	if !graceful && 2*len(left) <= was {
		for _, n := range left {
			n.inside, n.outside = false, true
			m.say("%s is outside", n.id)
		}
	}
}

// crash takes the power from members.
func (m *model) crash(gone ...*node) {
	m.lose(false, gone...)
	for _, n := range gone {
		m.say("%s crashes at %v, has received %d", n.id, n.disk, n.memory)
		if n.up && (n.disk.UUID != "") {
			n.memory = n.disk.Seqno
		}
		n.up, n.outside, n.examined = false, false, false
		delete(m.etcd.Live, n.id)
		if m.etcd.Claim == n.id {
			m.etcd.Claim = ""
		}
	}
}

func (m *model) live(n *node) Live {
	l := Live{Machine: n.id, Address: "a" + n.id, Phase: Stopped, Position: n.disk}
	if !n.examined && l.Position.UUID != "" {
		l.Position.Seqno = Unknown
	}
	if n.outside {
		l.Phase = Starting
	}
	if n.inside {
		l.Phase = Primary
	}
	return l
}

func (m *model) step(n *node) {
	if !n.up {
		return
	}
	m.etcd.Live[n.id] = m.live(n)
	if n.inside || n.outside {
		m.attend(n)
		return
	}
	a := Decide(n.id, m.live(n).Position, n.examined, m.etcd)
	switch a.Step {
	case Examine:
		n.examined = true
	case Bootstrap:
		if m.etcd.Cluster != nil || m.made > 0 {
			m.fail("%s makes another cluster", n.id)
		}
		m.made++
		m.etcd.Cluster = &Cluster{UUID: uuid, By: n.id}
		m.etcd.Known[n.id] = Known{n.id, "a" + n.id}
		n.disk, n.memory, n.inside = Position{uuid, 0}, 0, true
		m.say("%s makes the cluster", n.id)
	case Recover:
		if len(m.inside()) > 0 {
			m.fail("%s starts a second component", n.id)
		}
		if n.disk.Seqno < m.acked {
			m.fail("%s starts the cluster at %d, acknowledged was %d", n.id, n.disk.Seqno, m.acked)
		}
		n.memory, n.inside = n.disk.Seqno, true
		m.say("%s starts the cluster at %d", n.id, n.disk.Seqno)
	case Join:
		m.etcd.Known[n.id] = Known{n.id, "a" + n.id}
		in := m.inside()
		if len(in) == 0 {
			return // what was seen is old; the server gives up in time
		}
		if n.disk.UUID != "" && n.disk.Seqno > in[0].memory {
			m.fail("%s, at %d, is ahead of the cluster at %d", n.id, n.disk.Seqno, in[0].memory)
		}
		n.disk, n.memory, n.inside = Position{uuid, in[0].memory}, in[0].memory, true
		m.say("%s joins at %d", n.id, n.memory)
	}
	m.etcd.Live[n.id] = m.live(n)
}

func (m *model) attend(n *node) {
	s := Server{Primary: n.inside, Synced: n.inside, UUID: uuid, Queue: int(n.memory - n.disk.Seqno)}
	if n.outside {
		s.Cut = time.Hour
	}
	for _, o := range m.inside() {
		s.Members = append(s.Members, "a"+o.id)
	}
	c := Attend(n.id, s, m.etcd)
	if c.Stop != "" {
		m.say("%s is stopped: %s", n.id, c.Stop)
		n.outside, n.examined, n.memory = false, true, n.disk.Seqno
		m.etcd.Live[n.id] = m.live(n)
	}
	if c.Record {
		m.etcd.Cluster = &Cluster{UUID: uuid, By: n.id}
	}
	if c.Enter {
		m.etcd.Known[n.id] = Known{n.id, "a" + n.id}
	}
	for _, id := range c.Forget {
		m.say("%s forgets %s", n.id, id)
		delete(m.etcd.Known, id)
	}
}

// write has a client write through a member that is ready.
func (m *model) write(n *node) {
	if _, known := m.etcd.Known[n.id]; !n.inside || !known {
		return
	}
	for _, o := range m.inside() {
		o.memory++
	}
	n.disk.Seqno = n.memory
	m.acked = n.memory
}

func (m *model) act() {
	n := m.nodes[m.r.IntN(len(m.nodes))]
	switch m.r.IntN(20) {
	case 0:
		m.crash(n)
	case 1:
		m.crash(m.nodes...) // all of them
	case 2:
		if n.inside { // it is stopped as its unit is
			m.say("%s is stopped at %d", n.id, n.memory)
			m.lose(true, n)
			n.disk.Seqno = n.memory
			n.up, n.examined = false, true
			delete(m.etcd.Live, n.id)
		}
	case 3, 4:
		n.up = true
	case 5, 6, 7, 8:
		m.write(n)
	case 9:
		if n.inside {
			n.disk.Seqno += m.r.Int64N(n.memory - n.disk.Seqno + 1)
		}
	case 10:
		delete(m.etcd.Live, n.id) // its lease ends; it gets another with its next step
	case 11:
		m.wipe()
	default:
		m.step(n)
	}
}

// wipe makes etcd anew under a cluster that runs. Its members tell etcd of
// themselves, with all they have on their disks, before anything else happens: if they were all lost first, nobody
// could know that there was a cluster.
func (m *model) wipe() {
	if len(m.inside()) == 0 || m.r.IntN(4) > 0 {
		return
	}
	m.say("etcd is made anew")
	m.etcd = View{Known: map[string]Known{}, Live: map[string]Live{}}
	for range 2 {
		for _, n := range m.inside() {
			n.disk.Seqno = n.memory
			m.step(n)
		}
	}
}

// TestModel runs many histories of crashes, stops and writes: there is one
// bootstrap, also when etcd is made anew, never two components, and the cluster is never started without an
// acknowledged write; when all machines are back, it is whole again.
func TestModel(t *testing.T) {
	for seed := range uint64(3000) {
		m := &model{t: t, r: rand.New(rand.NewPCG(seed, 5)), etcd: View{Known: map[string]Known{}, Live: map[string]Live{}}}
		for i := range 3 + int(seed%2) {
			m.nodes = append(m.nodes, &node{id: fmt.Sprint(i + 1), disk: Position{Seqno: Unknown}})
		}
		m.say("seed %d", seed)
		for range 400 {
			m.act()
		}
		for _, n := range m.nodes {
			n.up = true
		}
		for range 20 {
			for _, n := range m.nodes {
				if n.inside {
					n.disk.Seqno = n.memory
				}
				m.step(n)
			}
		}
		if len(m.inside()) != len(m.nodes) {
			m.fail("not whole again: %+v", m.etcd)
		}
		if in := m.inside(); slices.ContainsFunc(in, func(n *node) bool { return n.memory < m.acked }) {
			m.fail("a member lacks acknowledged writes")
		}
		if m.made != 1 {
			m.fail("%d bootstraps", m.made)
		}
	}
}
