package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"plasmid/runtime/reboot"
	"plasmid/runtime/store"
)

// Reboot is the reboot locks, and what the machines say of themselves.
type Reboot struct {
	Groups   []RebootGroup   `json:"groups"`
	Machines []RebootMachine `json:"machines"`
}

// RebootGroup is one group's lock.
type RebootGroup struct {
	Group string `json:"group"`
	reboot.Semaphore
}

// RebootMachine is a machine's state, or why it does not tell.
type RebootMachine struct {
	reboot.Status
	Error string `json:"error,omitempty"`
}

// RebootMax is the body of PUT /plasmid/v1/reboots/{group}; without max it is
// what the machines are configured to.
type RebootMax struct {
	Max *int `json:"max"`
}

const askTimeout = 3 * time.Second

func (s *server) rebootRoutes() []route {
	return []route{
		{method: "GET", path: "/plasmid/v1/reboots", least: RoleReader, handle: s.rebootStatus},
		{method: "PUT", path: "/plasmid/v1/reboots/{group}", least: RoleAdmin, handle: s.rebootMax},
		{method: "GET", path: "/plasmid/v1/machines/{machine}/reboot", least: RoleReader, handle: s.rebootOf("", func() {})},
		{method: "POST", path: "/plasmid/v1/machines/{machine}/reboot", least: RoleAdmin, handle: s.rebootOf("told %s to reboot", func() { s.Reboots.Now() })},
		{method: "DELETE", path: "/plasmid/v1/machines/{machine}/reboot", least: RoleAdmin, handle: s.rebootOf("told %s not to reboot", func() { s.Reboots.Cancel() })},
		{method: "PUT", path: "/plasmid/v1/machines/{machine}/reboot-lock", least: RoleAdmin, handle: s.rebootLock(reboot.Semaphore.Hold)},
		{method: "DELETE", path: "/plasmid/v1/machines/{machine}/reboot-lock", least: RoleAdmin, handle: s.rebootLock(func(l reboot.Semaphore, h reboot.Holder) reboot.Semaphore {
			return l.Release(h.Machine)
		})},
	}
}

// theMachine finds a machine by its name, its ID or the beginning of its ID.
func theMachine(v *store.View, arg string) (store.Machine, error) {
	var found []store.Machine
	for id, m := range v.Known {
		if alive, ok := v.Machines[id]; ok {
			m = alive
		}
		if m.Name == arg || id == arg {
			return m, nil
		}
		if arg != "" && strings.HasPrefix(id, arg) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return store.Machine{}, fmt.Errorf("machine %s: %w; plasmid list-machines shows those that are known", arg, store.ErrNotFound)
	}
	return store.Machine{}, fmt.Errorf("%s is the beginning of %d machines' IDs", arg, len(found))
}

// failMachine answers that the machine asked for is none, or more than one.
func failMachine(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if errors.Is(err, store.ErrNotFound) {
		status = http.StatusNotFound
	}
	fail(w, status, err)
}

// rebootOf has the machine that is named do something, and answers with its
// status.
func (s *server) rebootOf(what string, do func()) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if passedOn(r) {
			do()
			write(w, http.StatusOK, s.Reboots.Status())
			return
		}
		v, ok := s.readable(w)
		if !ok {
			return
		}
		m, err := theMachine(v, r.PathValue("machine"))
		if err != nil {
			failMachine(w, err)
			return
		}
		if what != "" {
			note(r, 0, fmt.Sprintf(what, m.Name))
		}
		s.proxy(w, r, v, m.ID)
	}
}

// rebootStatus asks all machines at once.
func (s *server) rebootStatus(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok {
		return
	}
	out := Reboot{Groups: []RebootGroup{}, Machines: make([]RebootMachine, len(v.Known))}
	groups := map[string]bool{}
	for g := range v.Reboots {
		groups[g] = true
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for i, id := range sortedNames(v.Known) {
		m := v.Known[id]
		groups[groupOf(m)] = true
		at := &out.Machines[i]
		at.Status = reboot.Status{Machine: id, Name: m.Name, Group: groupOf(m), Boot: m.BootID}
		_, at.Holds = v.Reboots[groupOf(m)].Holder(id)
		if _, alive := v.Machines[id]; !alive {
			at.Error = "the machine does not report"
			continue
		}
		wg.Go(func() {
			st, err := s.askReboot(ctx, m)
			if err != nil {
				at.Error = err.Error()
				return
			}
			at.Status = st
		})
	}
	wg.Wait()
	for _, g := range sortedNames(groups) {
		out.Groups = append(out.Groups, RebootGroup{g, v.Reboots[g]})
	}
	slices.SortFunc(out.Machines, func(a, b RebootMachine) int { return cmp.Compare(a.Name, b.Name) })
	write(w, http.StatusOK, out)
}

// askReboot asks one machine, this one without the network.
func (s *server) askReboot(ctx context.Context, m store.Machine) (reboot.Status, error) {
	var st reboot.Status
	if m.ID == s.MachineID {
		return s.Reboots.Status(), nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+m.Endpoint+"/plasmid/v1/machines/"+m.ID+"/reboot?"+here+"=1", nil)
	if err != nil {
		return st, err
	}
	resp, err := s.Peers.Do(req)
	if err != nil {
		return st, fmt.Errorf("it does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("it answers %s", resp.Status)
	}
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// groupOf is a machine's group; one that joined with an older daemon has the
// default's.
func groupOf(m store.Machine) string { return cmp.Or(m.RebootGroup, reboot.DefaultGroup) }

// rebootLock takes a machine's lock, or gives it back, on an operator's word.
func (s *server) rebootLock(change func(reboot.Semaphore, reboot.Holder) reboot.Semaphore) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, ok := s.readable(w)
		if !ok {
			return
		}
		m, err := theMachine(v, r.PathValue("machine"))
		group := groupOf(m)
		if err != nil {
			// A holder may be a machine that is known no more.
			h, in, found := holderNamed(v, r.PathValue("machine"))
			if !found {
				failMachine(w, err)
				return
			}
			m, group = store.Machine{ID: h.Machine, Name: h.Name, BootID: h.Boot}, in
		}
		h := reboot.Holder{Machine: m.ID, Name: m.Name, Boot: m.BootID, Since: time.Now().UTC().Truncate(time.Second)}
		s.changeReboot(w, r, group, func(l reboot.Semaphore) reboot.Semaphore { return change(l, h) })
	}
}

func holderNamed(v *store.View, arg string) (h reboot.Holder, group string, ok bool) {
	for group, l := range v.Reboots {
		for _, h := range l.Holders {
			if h.Machine == arg || h.Name == arg {
				return h, group, true
			}
		}
	}
	return reboot.Holder{}, "", false
}

func (s *server) rebootMax(w http.ResponseWriter, r *http.Request) {
	var body RebootMax
	if err := decodeBody(r, &body); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if body.Max != nil && *body.Max < 0 {
		fail(w, http.StatusBadRequest, errors.New("max is below 0"))
		return
	}
	v, ok := s.readable(w)
	if !ok {
		return
	}
	group := r.PathValue("group")
	_, exists := v.Reboots[group]
	for _, m := range v.Known {
		exists = exists || groupOf(m) == group
	}
	if !exists {
		fail(w, http.StatusNotFound, fmt.Errorf("no machine is in the reboot group %q", group))
		return
	}
	s.changeReboot(w, r, group, func(l reboot.Semaphore) reboot.Semaphore { return l.WithMax(body.Max) })
}

// changeReboot changes a group's lock and answers with it.
func (s *server) changeReboot(w http.ResponseWriter, r *http.Request, group string, f func(reboot.Semaphore) reboot.Semaphore) {
	var now reboot.Semaphore
	revision, err := s.Store.ChangeReboot(r.Context(), group, func(l reboot.Semaphore) (reboot.Semaphore, error) {
		now = f(l)
		return now, nil
	})
	if err != nil {
		failStore(w, err)
		return
	}
	if revision > 0 {
		note(r, revision, "changed the reboot lock of group "+group+": "+now.String())
		s.settle(r.Context(), revision)
	}
	write(w, http.StatusOK, RebootGroup{group, now})
}
