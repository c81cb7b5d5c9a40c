// Package plan compares the cluster that is wanted with the one that exists
// and says, step by step, what leads from one to the other. It is pure.
package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Action is what a step does to its thing.
type Action string

const (
	Create Action = "create"
	Update Action = "update"
	Start  Action = "start"
	Delete Action = "delete"
)

// Kinds of steps. A provider may have more of its own, for what machines
// share.
const (
	KindNetwork = "network"
	KindMachine = "machine"
	KindMember  = "member" // of the cluster: PKI, etcd, plasmidd
)

// Step is one thing to do.
type Step struct {
	ID      string   `json:"id"`
	Action  Action   `json:"action"`
	Kind    string   `json:"kind"`
	Name    string   `json:"name"`
	Details []string `json:"details,omitempty"`
	Needs   []string `json:"needs,omitempty"` // IDs of steps to be done before

	Machine *Machine `json:"machine,omitempty"` // of a machine or member that is to be
}

// Title is the step in the words of a user.
func (s Step) Title() string {
	if s.Kind == KindMember {
		switch s.Action {
		case Create:
			return "join " + s.Name
		case Update:
			return "configure " + s.Name
		case Delete:
			return "take " + s.Name + " out of the cluster"
		}
	}
	return fmt.Sprintf("%s %s %s", s.Action, s.Kind, s.Name)
}

// Machine is a machine as it should be.
type Machine struct {
	Name       string            `json:"name"`
	Group      string            `json:"group"`
	Image      string            `json:"image"`
	Shape      string            `json:"shape,omitempty"` // what it is made of beside the image, in the provider's words
	Etcd       bool              `json:"etcd"`
	PublicIPv4 string            `json:"publicIPv4"` // mode
	Metadata   map[string]string `json:"metadata,omitempty"`
	CPUs       float64           `json:"cpus,omitempty"`
	MemoryMiB  int               `json:"memoryMiB,omitempty"`
}

// Observed is a machine as it is.
type Observed struct {
	Name        string `json:"name"`
	Group       string `json:"group"`
	Image       string `json:"image"`
	Shape       string `json:"shape,omitempty"`
	PrivateIPv4 string `json:"privateIPv4"`
	PublicIPv4  string `json:"publicIPv4,omitempty"`
	Running     bool   `json:"running"`
	Complete    bool   `json:"complete"` // its making was not cut off
}

// Member is what the operator's side knows of a machine's membership.
type Member struct {
	Name string `json:"name"`
	Etcd bool   `json:"etcd"` // has a vote, or is to get one
	Spec string `json:"spec"` // of the configuration it was given; see Spec
}

// Input is all that a plan is made of.
type Input struct {
	Cluster  string
	Network  bool // exists
	Wanted   []Machine
	Observed []Observed
	Members  []Member
}

// Plan is a list of steps, each after those it needs.
type Plan struct {
	Steps []Step `json:"steps"`
}

// Empty reports that there is nothing to do.
func (p Plan) Empty() bool { return len(p.Steps) == 0 }

// Counts says how many things are added, changed and destroyed.
func (p Plan) Counts() (add, change, destroy int) {
	for _, s := range p.Steps {
		switch s.Action {
		case Create:
			add++
		case Delete:
			destroy++
		default:
			change++
		}
	}
	return
}

// Summary is the counts in a line.
func (p Plan) Summary() string {
	add, change, destroy := p.Counts()
	return fmt.Sprintf("Plan: %d to add, %d to change, %d to destroy.", add, change, destroy)
}

// Spec names the part of a machine's wanted state that its configuration as a
// member holds.
func (m Machine) Spec() string {
	keys := make([]string, 0, len(m.Metadata))
	for k, v := range m.Metadata {
		keys = append(keys, k+"="+v)
	}
	slices.Sort(keys)
	return fmt.Sprintf("group=%s etcd=%v %s", m.Group, m.Etcd, strings.Join(keys, " "))
}

// StepID is the ID that a step has.
func StepID(a Action, kind, name string) string { return string(a) + " " + kind + " " + name }

// Make returns the steps from what is to what is wanted. An etcd cluster
// always keeps its majority: members are added and removed one at a time, and
// a plan that would lose the quorum is an error.
func Make(in Input) (Plan, error) {
	m := maker{
		Input:    in,
		wanted:   map[string]Machine{},
		observed: map[string]Observed{},
		members:  map[string]Member{},
		up:       map[string]string{},
		anew:     map[string]bool{},
	}
	for _, w := range in.Wanted {
		m.wanted[w.Name] = w
	}
	for _, o := range in.Observed {
		m.observed[o.Name] = o
	}
	for _, mem := range in.Members {
		m.members[mem.Name] = mem
	}
	if err := errors.Join(m.guardQuorum(), m.guardData()); err != nil {
		return Plan{}, err
	}
	// Votes of the dead are taken away first, then new ones are given, and only
	// then the living lose theirs: so a majority always answers.
	m.network()
	m.machines()
	m.departures(false)
	m.replacements(false)
	m.joins()
	m.departures(true)
	m.replacements(true)
	return Plan{m.steps}, nil
}

// Destroy returns the steps that leave nothing.
func Destroy(in Input) Plan {
	var p Plan
	var machines []string
	for _, o := range sortedObserved(in.Observed) {
		id := StepID(Delete, KindMachine, o.Name)
		machines = append(machines, id)
		p.Steps = append(p.Steps, Step{ID: id, Action: Delete, Kind: KindMachine, Name: o.Name, Details: []string{"address " + o.PrivateIPv4}})
	}
	if in.Network {
		p.Steps = append(p.Steps, Step{ID: StepID(Delete, KindNetwork, in.Cluster), Action: Delete, Kind: KindNetwork, Name: in.Cluster, Needs: machines})
	}
	return p
}

type maker struct {
	Input
	wanted   map[string]Machine
	observed map[string]Observed
	members  map[string]Member
	steps    []Step
	up       map[string]string // machine to the step after which it runs
	anew     map[string]bool   // machines that are made in this plan
	// voting is the last step that changed who votes: the next one waits.
	voting string
	// joined are the steps after which all wanted machines run as members.
	joined []string
}

func (m *maker) add(s Step) string {
	s.ID = StepID(s.Action, s.Kind, s.Name)
	var needs []string
	for _, n := range s.Needs {
		if n != "" && !slices.Contains(needs, n) {
			needs = append(needs, n)
		}
	}
	s.Needs = needs
	m.steps = append(m.steps, s)
	return s.ID
}

// guardQuorum refuses to take away more voters than can be missed at once.
func (m *maker) guardQuorum() error {
	var voters, alive, staying int
	for name, mem := range m.members {
		if !mem.Etcd {
			continue
		}
		voters++
		if o, ok := m.observed[name]; ok && o.Running {
			alive++
		}
		if w, ok := m.wanted[name]; ok && w.Etcd {
			staying++
		}
	}
	if voters == 0 {
		return nil
	}
	if staying == 0 {
		return fmt.Errorf("none of the %d etcd members would stay: the cluster's data would be lost; keep at least one of them, or take the cluster down with: plasmid down", voters)
	}
	if alive <= voters/2 && m.changesVoters() {
		return fmt.Errorf("%d of %d etcd members run, which is no majority: no member can be added or removed now; start the others first", alive, voters)
	}
	return nil
}

func (m *maker) changesVoters() bool {
	for name, mem := range m.members {
		if w, ok := m.wanted[name]; mem.Etcd && (!ok || !w.Etcd) {
			return true
		}
	}
	return false
}

// changes are what of a machine can be had only by making it anew.
func changes(o Observed, w Machine) []string {
	var c []string
	if o.Image != w.Image {
		c = append(c, "image "+o.Image+" → "+w.Image)
	}
	if o.Shape != w.Shape {
		c = append(c, o.Shape+" → "+w.Shape)
	}
	return c
}

// replaced reports whether a machine that is a member is to be made anew, of
// another image or shape.
func (m *maker) replaced(w Machine) bool {
	o, exists := m.observed[w.Name]
	_, member := m.members[w.Name]
	return member && exists && o.Complete && len(changes(o, w)) > 0
}

// guardData refuses to replace the machine that alone holds the cluster's data.
func (m *maker) guardData() error {
	var voters []Machine
	for _, w := range m.Wanted {
		if w.Etcd {
			voters = append(voters, w)
		}
	}
	if len(voters) == 1 && m.members[voters[0].Name].Etcd && m.replaced(voters[0]) {
		w := voters[0]
		return fmt.Errorf("machine %s is the only etcd member, and to make it anew (%s) is to lose the cluster's data; have more members first (etcd = 3), or give the data up with: plasmid down",
			w.Name, strings.Join(changes(m.observed[w.Name], w), ", "))
	}
	return nil
}

func (m *maker) network() {
	if !m.Network {
		m.add(Step{Action: Create, Kind: KindNetwork, Name: m.Cluster})
	}
}

// machines makes and starts the machines that are wanted, but for those that
// are to be replaced.
func (m *maker) machines() {
	network := ""
	if !m.Network {
		network = StepID(Create, KindNetwork, m.Cluster)
	}
	for _, w := range m.sortedWanted() {
		if m.replaced(w) {
			continue
		}
		o, exists := m.observed[w.Name]
		_, member := m.members[w.Name]
		switch {
		case exists && o.Complete && len(changes(o, w)) > 0 && !member:
			// It is not as wanted and has no part in the cluster yet.
			gone := m.add(Step{Action: Delete, Kind: KindMachine, Name: w.Name, Details: changes(o, w)})
			m.up[w.Name] = m.add(Step{Action: Create, Kind: KindMachine, Name: w.Name, Needs: []string{network, gone}, Machine: &w, Details: details(w)})
		case !exists || !o.Complete:
			m.anew[w.Name] = true
			m.up[w.Name] = m.add(Step{Action: Create, Kind: KindMachine, Name: w.Name, Needs: []string{network}, Machine: &w, Details: details(w)})
		case !o.Running:
			m.up[w.Name] = m.add(Step{Action: Start, Kind: KindMachine, Name: w.Name, Needs: []string{network}, Machine: &w})
			m.joined = append(m.joined, m.up[w.Name])
		}
	}
}

// joins makes machines members, or configures them anew. Those that are to
// lose their vote come last.
func (m *maker) joins() {
	bootstrap := true
	for _, mem := range m.members {
		if mem.Etcd {
			bootstrap = false
		}
	}
	if bootstrap {
		m.bootstrap()
	}
	for _, demoted := range []bool{false, true} {
		others := slices.Clone(m.joined)
		for _, w := range m.sortedWanted() {
			mem, is := m.members[w.Name]
			loses := mem.Etcd && !w.Etcd && !m.anew[w.Name]
			if loses != demoted || m.replaced(w) || bootstrap && w.Etcd || is && mem.Spec == w.Spec() && !m.anew[w.Name] {
				continue
			}
			s := Step{Action: Create, Kind: KindMember, Name: w.Name, Machine: &w, Needs: append([]string{m.up[w.Name], m.voting}, m.firstMembers(bootstrap)...)}
			if is {
				s.Action, s.Details = Update, []string{mem.Spec + " → " + w.Spec()}
				if m.anew[w.Name] {
					s.Details = []string{"its machine was lost"}
				}
			} else if w.Etcd {
				s.Details = []string{"etcd member"}
			}
			if loses {
				s.Needs = append(s.Needs, others...)
			}
			id := m.add(s)
			if w.Etcd || mem.Etcd {
				m.voting = id
			}
			m.joined = append(m.joined, id)
		}
	}
}

// bootstrap joins the first etcd members: they start together, so each step
// needs all their machines.
func (m *maker) bootstrap() {
	var machines []string
	for _, w := range m.sortedWanted() {
		if w.Etcd {
			machines = append(machines, m.up[w.Name])
		}
	}
	for _, w := range m.sortedWanted() {
		if w.Etcd {
			m.joined = append(m.joined, m.add(Step{Action: Create, Kind: KindMember, Name: w.Name, Machine: &w, Needs: slices.Clone(machines), Details: []string{"etcd member, of the first ones"}}))
		}
	}
}

// firstMembers are the steps that a machine which joins later waits for.
func (m *maker) firstMembers(bootstrap bool) []string {
	if !bootstrap {
		return nil
	}
	var ids []string
	for _, w := range m.sortedWanted() {
		if w.Etcd {
			ids = append(ids, StepID(Create, KindMember, w.Name))
		}
	}
	return ids
}

// departures removes machines that are no longer wanted, the highest number
// first: those that are down at once, those that live after the new ones have
// joined.
func (m *maker) departures(alive bool) {
	gone := sortedObserved(m.Observed)
	slices.Reverse(gone)
	needs := slices.Clone(m.joined)
	if !alive {
		needs = nil
	}
	for _, o := range gone {
		if _, ok := m.wanted[o.Name]; !ok && o.Running == alive {
			m.leave(o, needs)
		}
	}
	for _, mem := range m.Members {
		_, wanted := m.wanted[mem.Name]
		if _, exists := m.observed[mem.Name]; !exists && !wanted && !alive {
			m.voting = m.add(Step{Action: Delete, Kind: KindMember, Name: mem.Name, Needs: []string{m.voting}, Details: []string{"its machine is gone already"}})
		}
	}
}

// leave takes a machine out of the cluster and then away.
func (m *maker) leave(o Observed, needs []string) string {
	left := ""
	if mem, ok := m.members[o.Name]; ok {
		s := Step{Action: Delete, Kind: KindMember, Name: o.Name, Needs: slices.Clone(needs)}
		if mem.Etcd {
			s.Details, s.Needs = []string{"etcd member"}, append(s.Needs, m.voting)
		}
		left = m.add(s)
		if mem.Etcd {
			m.voting = left
		}
	}
	return m.add(Step{Action: Delete, Kind: KindMachine, Name: o.Name, Needs: append([]string{left}, needs...)})
}

// replacements changes machines to another image or shape one at a time: the machine
// leaves, is made anew and joins, and then the next.
func (m *maker) replacements(alive bool) {
	var before []string
	if alive {
		before = slices.Clone(m.joined)
	}
	if m.voting != "" {
		before = append(before, m.voting)
	}
	for _, w := range m.sortedWanted() {
		o := m.observed[w.Name]
		if !m.replaced(w) || o.Running != alive {
			continue
		}
		left := m.add(Step{Action: Delete, Kind: KindMember, Name: w.Name, Needs: before, Details: []string{"to be replaced"}})
		deleted := m.add(Step{Action: Delete, Kind: KindMachine, Name: w.Name, Needs: append([]string{left}, before...), Details: changes(o, w)})
		made := m.add(Step{Action: Create, Kind: KindMachine, Name: w.Name, Needs: []string{deleted}, Machine: &w, Details: details(w)})
		joined := m.add(Step{Action: Create, Kind: KindMember, Name: w.Name, Needs: []string{made}, Machine: &w})
		before = []string{joined}
		m.voting, m.joined = joined, append(m.joined, joined)
	}
}

func details(w Machine) []string {
	d := []string{"image " + w.Image}
	if w.Shape != "" {
		d = append(d, w.Shape)
	}
	if w.CPUs > 0 {
		d = append(d, fmt.Sprintf("%g CPUs", w.CPUs))
	}
	if w.MemoryMiB > 0 {
		d = append(d, fmt.Sprintf("%d MiB", w.MemoryMiB))
	}
	return d
}

func (m *maker) sortedWanted() []Machine {
	return slices.SortedFunc(slices.Values(m.Wanted), func(a, b Machine) int { return compareNames(a.Name, b.Name) })
}

func sortedObserved(os []Observed) []Observed {
	return slices.SortedFunc(slices.Values(os), func(a, b Observed) int { return compareNames(a.Name, b.Name) })
}

// compareNames orders core-2 before core-10.
func compareNames(a, b string) int {
	pa, na := splitNumber(a)
	pb, nb := splitNumber(b)
	return cmp.Or(cmp.Compare(pa, pb), na-nb, cmp.Compare(a, b))
}

func splitNumber(s string) (string, int) {
	i := strings.LastIndexByte(s, '-')
	n := 0
	if _, err := fmt.Sscanf(s[i+1:], "%d", &n); err != nil {
		return s, 0
	}
	return s[:i+1], n
}
