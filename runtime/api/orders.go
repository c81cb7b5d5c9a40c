package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"plasmid/runtime/store"
)

// Order is what an operator wants of a machine: with Drain that its units go
// elsewhere, Budget at a time, else that it only gets none.
type Order struct {
	Drain  bool `json:"drain,omitempty"`
	Budget int  `json:"budget,omitempty"` // 0: one
}

// elsewhere hands a request that only the leader can answer to it, and reports
// whether that was done.
func (s *server) elsewhere(w http.ResponseWriter, r *http.Request, v *store.View) bool {
	switch {
	case v.Leader == s.MachineID || passedOn(r):
		return false
	case v.Leader == "":
		fail(w, http.StatusServiceUnavailable, errors.New("no machine leads at the moment; try again in a few seconds"))
	default:
		s.proxy(w, r, v, v.Leader)
	}
	return true
}

// waiting says of units that are to move or to change and can't yet what they
// wait for. The leader knows.
func (s *server) waiting(w http.ResponseWriter, r *http.Request) {
	v, ok := s.readable(w)
	if !ok || s.elsewhere(w, r, v) {
		return
	}
	out := map[string]string{}
	if s.Waiting != nil {
		for unit, why := range s.Waiting() {
			out[unit] = why
		}
	}
	write(w, http.StatusOK, out)
}

// ordered finds the machine that an order is for.
func (s *server) ordered(w http.ResponseWriter, r *http.Request) (store.Machine, bool) {
	v, ok := s.readable(w)
	if !ok {
		return store.Machine{}, false
	}
	m, ok := v.Known[r.PathValue("machine")]
	if !ok {
		fail(w, http.StatusNotFound, fmt.Errorf("there is no machine %s", r.PathValue("machine")))
	}
	return m, ok
}

// order reads an order out of a request.
func order(w http.ResponseWriter, r *http.Request) (o Order, ok bool) {
	err := decodeBody(r, &o)
	if err == nil && o.Budget < 0 {
		err = fmt.Errorf("budget %d is negative", o.Budget)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
	}
	return o, err == nil
}

func (s *server) setOrder(w http.ResponseWriter, r *http.Request) {
	m, ok := s.ordered(w, r)
	if !ok {
		return
	}
	o, ok := order(w, r)
	if !ok {
		return
	}
	revision, err := s.Store.SetOrder(r.Context(), store.Order{
		Machine: m.ID, Drain: o.Drain, Budget: o.Budget, By: caller(r).Name, Since: now(),
	})
	what := "cordoned "
	if o.Drain {
		what = "began to drain "
	}
	s.applied(w, r, revision, err, what+m.Name)
}

func (s *server) deleteOrder(w http.ResponseWriter, r *http.Request) {
	if m, ok := s.ordered(w, r); ok {
		revision, err := s.Store.DeleteOrder(r.Context(), m.ID)
		s.applied(w, r, revision, err, "uncordoned "+m.Name)
	}
}

// getRebalance answers with the order under way, or with null.
func (s *server) getRebalance(w http.ResponseWriter, _ *http.Request) {
	if v, ok := s.readable(w); ok {
		write(w, http.StatusOK, v.Rebalance)
	}
}

func (s *server) setRebalance(w http.ResponseWriter, r *http.Request) {
	if o, ok := order(w, r); ok {
		revision, err := s.Store.SetRebalance(r.Context(), &store.Rebalance{Budget: o.Budget, By: caller(r).Name, Since: now()})
		s.applied(w, r, revision, err, "ordered a rebalance")
	}
}

func (s *server) deleteRebalance(w http.ResponseWriter, r *http.Request) {
	revision, err := s.Store.SetRebalance(r.Context(), nil)
	s.applied(w, r, revision, err, "took the rebalance back")
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// applied answers a change when the view shows it.
func (s *server) applied(w http.ResponseWriter, r *http.Request, revision int64, err error, what string) {
	if err != nil {
		failStore(w, err)
		return
	}
	if revision != 0 {
		note(r, revision, what)
	}
	s.settle(r.Context(), revision)
	write(w, http.StatusOK, Applied{revision})
}
