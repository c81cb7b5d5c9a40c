package schedule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const inactive = "inactive"

// Decide compares what is wanted with what is placed. Its decisions are sorted:
// removals first, then updates, then placements, each by unit and machine.
func Decide(v View) Result { return plan(pointers(v.Units), v).result() }

// plan makes a plan for the units; those of the view are left aside.
func plan(units []*Unit, v View) *planner {
	p := newPlanner(units, v)
	p.keep()
	p.dropStranded()
	p.placeGlobals()
	p.placeRest(p.sorted)
	p.drain()
	p.rebalance()
	return p
}

func pointers(units []Unit) []*Unit {
	ps := make([]*Unit, len(units))
	for i := range units {
		ps[i] = &units[i]
	}
	return ps
}

// host is a machine while a plan is made.
type host struct {
	Machine
	id    string
	units map[string]*wanted
	picky int // units on it that have conflicts or replace others
	index int // in planner.order

	cpu, memory int                // reserved
	ports       map[string]*wanted // reserved
	values      map[string]string  // metadata and facts, made when first asked for
}

// wanted is a unit while a plan is made.
type wanted struct {
	*Unit
	name  string
	on    []*host // where it stays or stood
	home  *host   // where a unit that is not global ends up
	class *class
	group *group // of units that are spread; nil: it is not
}

func (w *wanted) picky() bool { return len(w.Spec.Conflicts) > 0 || len(w.Spec.Replaces) > 0 }

type planner struct {
	view      View
	units     map[string]*wanted
	sorted    []*wanted
	hosts     map[string]*host
	order     []*host // by ID
	decisions []Decision
	unplaced  map[string][]Verdict
	stuck     map[string]string
	back      map[string]string
	balanced  bool

	classes map[string]*class
	groups  map[string]*group
	picky   int                  // placed units that have conflicts or replace others
	shrunk  int                  // how often a machine lost a unit: queues are in disorder then
	failed  map[string][]Verdict // verdicts on units that ask for the same
}

func newPlanner(units []*Unit, v View) *planner {
	p := &planner{
		view:     v,
		units:    make(map[string]*wanted, len(units)),
		hosts:    make(map[string]*host, len(v.Machines)),
		unplaced: map[string][]Verdict{}, stuck: map[string]string{}, back: map[string]string{},
		classes: map[string]*class{}, groups: map[string]*group{}, failed: map[string][]Verdict{},
	}
	all := make([]wanted, len(units))
	p.sorted = make([]*wanted, len(units))
	for i, u := range units {
		w := &all[i]
		w.Unit, w.name = u, u.Spec.Name
		p.units[w.name] = w
		p.sorted[i] = w
	}
	slices.SortFunc(p.sorted, func(a, b *wanted) int { return cmp.Compare(a.name, b.name) })
	for _, m := range v.Machines {
		p.host(m)
	}
	for _, pl := range v.Placed {
		if p.hosts[pl.Machine] == nil {
			p.host(Machine{ID: pl.Machine, Suspect: true})
		}
	}
	slices.SortFunc(p.order, func(a, b *host) int { return cmp.Compare(a.id, b.id) })
	for i, h := range p.order {
		h.index = i
	}
	for _, w := range p.sorted {
		w.class = p.classOf(w)
		w.group = p.groupOf(w)
	}
	return p
}

func (p *planner) host(m Machine) {
	h := &host{Machine: m, id: m.ID, units: map[string]*wanted{}, ports: map[string]*wanted{}}
	p.hosts[m.ID] = h
	p.order = append(p.order, h)
}

func (p *planner) decide(op Op, unit, machine, format string, args ...any) {
	p.decisions = append(p.decisions, Decision{op, unit, machine, fmt.Sprintf(format, args...), false})
}

// keep goes through what is placed and keeps what may stay. Units whose file
// changed come last, so that what they newly ask for drives nobody away; else it
// goes in the order of names, so that of two that exclude each other always the
// same one stays.
func (p *planner) keep() {
	type stand struct {
		pl    *Placed
		w     *wanted
		h     *host
		later int // of two placements the one with less is gone through first
	}
	placed := make([]stand, len(p.view.Placed))
	for i := range p.view.Placed {
		pl := &p.view.Placed[i]
		st := stand{pl, p.units[pl.Unit], p.hosts[pl.Machine], 0}
		if st.w != nil && st.w.Hash != pl.Hash {
			st.later = 1
		}
		placed[i] = st
	}
	slices.SortFunc(placed, func(a, b stand) int {
		if a.later != b.later {
			return a.later - b.later
		}
		if c := cmp.Compare(a.pl.Unit, b.pl.Unit); c != 0 {
			return c
		}
		return cmp.Or(p.preference(a.h)-p.preference(b.h), cmp.Compare(a.h.id, b.h.id))
	})
	rollouts := map[string]*rollout{}
	for _, st := range placed {
		pl, w, h := st.pl, st.w, st.h
		switch {
		case w == nil:
			p.decide(Remove, pl.Unit, h.id, "the unit was destroyed")
			continue
		case w.Wish == inactive:
			p.decide(Remove, pl.Unit, h.id, "the unit is to be inactive")
			continue
		case h.Gone:
			p.decide(Remove, pl.Unit, h.id, "the machine is gone: its lease expired and it does not answer")
			continue
		case !w.Spec.Global && w.home != nil:
			p.decide(Remove, pl.Unit, h.id, "the unit is on machine %s already", short(w.home.id))
			continue
		}
		// What a silent machine says of itself may be old, so it is no reason
		// to take units away from it.
		if !h.Suspect {
			if why := p.unfit(w, h); why != "" {
				p.decide(Remove, pl.Unit, h.id, "the machine %s", why)
				continue
			}
		}
		p.put(w, h)
		w.on = append(w.on, h)
		why := ""
		if pl.Wish != launched {
			why = p.blocked(w)
		}
		switch {
		case w.Done != "" && pl.Wish == launched:
			// So that a reboot of the machine does not start it again.
			p.decide(Update, pl.Unit, h.id, "%s", w.Done)
		case w.Done != "":
		case why != "":
			p.stuck[w.name] = why
		case w.Spec.Update.Rolling && pl.Wish == launched && w.Wish == launched:
			name := rolloutOf(w)
			r := rollouts[name]
			if r == nil {
				r = &rollout{update: w.Spec.Update, name: name}
				rollouts[name] = r
			}
			r.members = append(r.members, w)
			who := instanceName(w, h)
			switch {
			case pl.Hash != w.Hash:
				r.todo = append(r.todo, update{w, h, *pl})
			case pl.Failed:
				r.failed = append(r.failed, who)
				r.back = r.back || pl.Back
			case !pl.Ready:
				r.unready = append(r.unready, who)
			}
		case pl.Hash != w.Hash:
			p.decide(Update, pl.Unit, h.id, "the unit file changed")
		case pl.Wish != w.Wish:
			p.decide(Update, pl.Unit, h.id, "the unit is to be %s", w.Wish)
		}
	}
	p.roll(rollouts)
}

// preference orders the placements of a unit that is, wrongly, placed more
// than once: one on a machine that reports is kept before one on a silent one.
func (p *planner) preference(h *host) int {
	if h.Suspect {
		return 1
	}
	return 0
}

// dropStranded removes units whose peers are no longer on their machine, until
// no more are found: one may be the peer of the next.
func (p *planner) dropStranded() {
	for again := true; again; {
		again = false
		for _, w := range p.sorted {
			if w.home == nil || len(w.Spec.MachineOf) == 0 || w.home.Suspect {
				continue
			}
			if why := p.missesPeer(w, w.home); why != "" {
				h := w.home
				p.drop(w, h)
				p.decide(Remove, w.name, h.id, "the machine %s", why)
				again = true
			}
		}
	}
}

func (p *planner) placeGlobals() {
	for _, w := range p.sorted {
		if !w.Spec.Global || w.Wish == inactive {
			continue
		}
		if why := p.blocked(w); why != "" {
			if slices.ContainsFunc(p.order, func(h *host) bool { return h.units[w.name] == nil && p.closed(h) == "" }) {
				p.wait(w, why)
			}
			continue
		}
		for _, h := range p.order {
			if _, has := h.units[w.name]; has || h.Gone || h.Suspect {
				continue
			}
			why := p.closed(h)
			if why == "" {
				why = p.unfit(w, h)
			}
			if why == "" {
				p.put(w, h)
				p.decide(Place, w.name, h.id, "a global unit runs on every machine that fits")
			} else if len(w.on) == 0 {
				p.unplaced[w.name] = append(p.unplaced[w.name], Verdict{h.id, why})
			}
		}
		if p.anywhere(w) {
			delete(p.unplaced, w.name)
		} else if p.unplaced[w.name] == nil {
			p.unplaced[w.name] = []Verdict{}
		}
	}
}

// placeRest places the units, which are in the order of their names, as far as
// they are not placed. Units with peers, and units driven away by another, can
// depend on those placed before, so it goes round until nothing more moves; each
// round places at least one unit or ends.
func (p *planner) placeRest(units []*wanted) {
	var todo []*wanted
	for _, w := range units {
		if w.Spec.Global || w.Wish == inactive || w.home != nil || w.Done != "" {
			continue
		}
		if why := p.blocked(w); why != "" {
			p.wait(w, why)
			continue
		}
		todo = append(todo, w)
	}
	for len(todo) > 0 {
		var waiting []*wanted
		placed := false
		for _, w := range todo {
			switch evicted, ok := p.place(w); {
			case !ok:
				waiting = append(waiting, w)
			default:
				placed = true
				waiting = append(waiting, evicted...)
			}
		}
		todo = waiting
		if !placed {
			break
		}
	}
	for _, w := range todo {
		p.unplaced[w.name] = p.verdicts(w)
	}
}

// verdicts says of every machine that is not gone why it can't run the unit.
// Units that ask for the same share them.
func (p *planner) verdicts(w *wanted) []Verdict {
	if vs, ok := p.failed[p.likeness(w)]; ok && vs != nil {
		return vs
	}
	vs := []Verdict{}
	for _, h := range p.order {
		if !h.Gone {
			vs = append(vs, Verdict{h.id, p.why(w, h)})
		}
	}
	if k := p.likeness(w); k != "" {
		p.failed[k] = vs
	}
	return vs
}

// why says why a machine can't take a unit that it does not have, or nothing.
func (p *planner) why(w *wanted, h *host) string {
	return cmp.Or(p.closed(h), p.unfit(w, h), p.missesPeer(w, h))
}

// wait notes that a unit is not started yet, for a reason that has nothing to do
// with machines.
func (p *planner) wait(w *wanted, why string) {
	p.stuck[w.name] = why
	if len(w.on) == 0 {
		p.unplaced[w.name] = []Verdict{{"", why}}
	}
}

// place puts one unit on the machine of the unit it replaces, else on the
// least loaded machine that can run it. It returns the units it drove away.
func (p *planner) place(w *wanted) (evicted []*wanted, ok bool) {
	for _, name := range w.Spec.Replaces {
		old := p.units[name]
		if old == nil || old.home == nil || p.inRing(w, old) {
			continue
		}
		h := old.home
		if p.closed(h) != "" || p.unfitBut(w, h, old) != "" || p.missesPeer(w, h) != "" {
			continue
		}
		p.drop(old, h)
		p.retract(old, h, "%s replaces it", w.name)
		p.put(w, h)
		p.decide(Place, w.name, h.id, "it replaces %s", name)
		return []*wanted{old}, true
	}

	var h *host
	if len(w.Spec.MachineOf) > 0 {
		// Only one machine comes into question.
		if peer := p.units[w.Spec.MachineOf[0]]; peer != nil {
			for _, on := range p.order {
				if _, has := on.units[peer.name]; has && p.closed(on) == "" && p.unfit(w, on) == "" && p.missesPeer(w, on) == "" {
					h = on
					break
				}
			}
		}
	} else {
		h = p.best(w, nil)
	}
	if h == nil {
		return nil, false
	}
	reason := p.reason(w, h)
	p.put(w, h)
	p.decide(Place, w.name, h.id, "%s", reason)
	return nil, true
}

// reason says why a machine that is about to get a unit was chosen.
func (p *planner) reason(w *wanted, h *host) string {
	switch {
	case len(w.Spec.MachineOf) > 0:
		return "it has " + strings.Join(w.Spec.MachineOf, ", ")
	case w.group != nil:
		return fmt.Sprintf("its %s had the fewest of %s (%d)", w.Spec.Spread, w.group.name, w.group.count[w.group.value(h)])
	}
	return "it had the fewest units (" + strconv.Itoa(len(h.units)) + ")"
}

func (p *planner) put(w *wanted, h *host) {
	h.units[w.name] = w
	if w.picky() {
		h.picky++
		p.picky++
	}
	h.cpu += w.Spec.Reserve.CPU
	h.memory += w.Spec.Reserve.Memory
	for _, port := range w.Spec.Reserve.Ports {
		if h.ports[port] == nil {
			h.ports[port] = w
		}
	}
	if w.group != nil {
		w.group.count[w.group.value(h)]++
	}
	if !w.Spec.Global {
		w.home = h
	}
}

func (p *planner) drop(w *wanted, h *host) {
	delete(h.units, w.name)
	if w.picky() {
		h.picky--
		p.picky--
	}
	h.cpu -= w.Spec.Reserve.CPU
	h.memory -= w.Spec.Reserve.Memory
	for _, port := range w.Spec.Reserve.Ports {
		if h.ports[port] == w {
			delete(h.ports, port)
		}
	}
	if w.group != nil {
		w.group.count[w.group.value(h)]--
	}
	w.home = nil
	p.shrunk++
	clear(p.failed)
}

// inRing reports whether old, by way of others or itself, replaces w in turn.
// In such a ring nobody drives anybody away: it would go round for ever.
func (p *planner) inRing(w, old *wanted) bool {
	seen := map[*wanted]bool{}
	var reaches func(*wanted) bool
	reaches = func(u *wanted) bool {
		if u == nil || seen[u] {
			return false
		}
		seen[u] = true
		return u == w || slices.ContainsFunc(u.Spec.Replaces, func(name string) bool { return reaches(p.units[name]) })
	}
	return reaches(old)
}

// retract takes back what was decided for a unit on a machine in this plan; if
// it stood there before the plan, it is removed instead.
func (p *planner) retract(w *wanted, h *host, format string, args ...any) {
	p.decisions = slices.DeleteFunc(p.decisions, func(d Decision) bool {
		return d.Unit == w.name && d.Machine == h.id && d.Op != Remove
	})
	if i := slices.Index(w.on, h); i >= 0 {
		p.decide(Remove, w.name, h.id, format, args...)
		w.on = slices.Delete(w.on, i, i+1)
	}
}

// closed says why a machine takes no new units.
func (p *planner) closed(h *host) string {
	switch {
	case h.Gone:
		return "is gone"
	case h.Suspect:
		return "has not reported for longer than its lease"
	case h.Draining:
		return "is being drained"
	case h.Cordoned:
		return "is cordoned"
	}
	return ""
}

// unfit says why the machine can't run the unit, peers left aside.
func (p *planner) unfit(w *wanted, h *host) string { return p.unfitBut(w, h, nil) }

// unfitBut is unfit as if the unit but were not on the machine.
func (p *planner) unfitBut(w *wanted, h *host, but *wanted) string {
	if id := w.Spec.MachineID; id != "" && id != h.id && !(len(id) >= 8 && strings.HasPrefix(h.id, id)) {
		return "is not machine " + id
	}
	if why := w.Avoid[h.id]; why != "" {
		return why
	}
	if why := w.class.unfit(h); why != "" {
		return why
	}
	if why := lacksRoom(w, h, but); why != "" {
		return why
	}
	if !w.picky() && h.picky == 0 {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(h.units)) {
		other := h.units[name]
		if other == w || other == but {
			continue
		}
		switch {
		case w.Spec.ConflictsWith(name) != "":
			return fmt.Sprintf("has %s, which Conflicts=%s excludes", name, w.Spec.ConflictsWith(name))
		case other.Spec.ConflictsWith(w.name) != "":
			return fmt.Sprintf("has %s, whose Conflicts=%s excludes it", name, other.Spec.ConflictsWith(w.name))
		case slices.Contains(other.Spec.Replaces, w.name):
			return fmt.Sprintf("has %s, which replaces it", name)
		case slices.Contains(w.Spec.Replaces, name):
			return fmt.Sprintf("has %s, which it replaces", name)
		}
	}
	return ""
}

// missesPeer says which unit of MachineOf= the machine does not have.
func (p *planner) missesPeer(w *wanted, h *host) string {
	for _, peer := range w.Spec.MachineOf {
		if _, has := h.units[peer]; !has {
			return fmt.Sprintf("does not have %s, which MachineOf= asks for", peer)
		}
	}
	return ""
}

func (p *planner) anywhere(w *wanted) bool {
	for _, h := range p.order {
		if _, has := h.units[w.name]; has {
			return true
		}
	}
	return false
}

func (p *planner) result() Result {
	rank := map[Op]int{Remove: 0, Update: 1, Place: 2}
	slices.SortStableFunc(p.decisions, func(a, b Decision) int {
		return cmp.Or(rank[a.Op]-rank[b.Op], cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Machine, b.Machine))
	})
	return Result{p.decisions, p.unplaced, p.stuck, p.back, p.balanced}
}

// short is the form in which people are shown a machine's ID.
func short(id string) string { return id[:min(8, len(id))] }
