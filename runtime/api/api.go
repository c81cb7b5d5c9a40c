// Package api is the cluster's HTTP interface, the same on every machine:
// fleet's API v1, and Plasmid's own for what fleet had no words for.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"plasmid/runtime/reboot"
	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
)

// Store is what changes units and metadata.
type Store interface {
	ApplyUnits(ctx context.Context, changes []store.UnitChange) (int64, error)
	SetMetadata(ctx context.Context, machine, key, value string) (int64, error)
	DeleteMetadata(ctx context.Context, machine, key string) (int64, error)
	ChangeReboot(ctx context.Context, group string, f func(reboot.Semaphore) (reboot.Semaphore, error)) (int64, error)
	SetOrder(ctx context.Context, o store.Order) (int64, error)
	DeleteOrder(ctx context.Context, machine string) (int64, error)
	SetRebalance(ctx context.Context, o *store.Rebalance) (int64, error)
}

// Mirror is the view that answers come from.
type Mirror interface {
	View() *store.View
	Changed() <-chan struct{}
	Current() (bool, time.Time)
	Wait(ctx context.Context, revision int64) error
}

// Units does to units on this machine what only this machine can do.
type Units interface {
	Restart(ctx context.Context, name string) error
}

// Reboots is this machine's side of the reboot lock.
type Reboots interface {
	Now()
	Cancel()
	Status() reboot.Status
}

// Config of the API.
type Config struct {
	Store     Store
	Mirror    Mirror
	Units     Units
	Secrets   Secrets
	MachineID string
	Version   string
	// Unplaced is the engine's, on the machine that leads.
	Unplaced func() map[string][]schedule.Verdict
	// Waiting is the engine's too; nil: none.
	Waiting func() map[string]string
	// Peers speaks mutual TLS with other machines.
	Peers   *http.Client
	Reboots Reboots
	// Blobs serves container images.
	Blobs http.Handler
	// Audit keeps who changed what.
	Audit AuditLog
	// Metrics serves them.
	Metrics http.Handler
	// Observe is told of every answer; took is 0 for one that is as long as
	// the client wants.
	Observe func(method, route string, status int, took time.Duration)
	Logger  *slog.Logger
}

type server struct{ Config }

// maxBody is the largest request that is not a blob, in bytes.
const maxBody = 8 << 20

// New returns the handler. A request without TLS is root's: it is to be served
// on a socket that only root can open.
func New(c Config) http.Handler {
	s := &server{c}
	return s.mux(s.routes())
}

// routes are all that there is; openapi.json describes each.
func (s *server) routes() []route {
	var routes []route
	for _, prefix := range fleetPrefixes {
		routes = append(routes, s.fleetRoutes(prefix)...)
	}
	routes = append(routes,
		route{method: "GET", path: "/plasmid/v1/health", least: RoleApp, handle: s.health},
		route{method: "GET", path: "/plasmid/v1/openapi.json", least: RoleApp, handle: s.openAPI},
		route{method: "GET", path: "/plasmid/v1/units", least: RoleApp, handle: s.listUnits, endless: true},
		route{method: "POST", path: "/plasmid/v1/units", least: RoleOperator, handle: s.applyUnits},
		route{method: "POST", path: "/plasmid/v1/units/{name}/restart", least: RoleOperator, handle: s.restart},
		route{method: "GET", path: "/plasmid/v1/units/{name}/status", least: RoleApp, handle: s.status},
		route{method: "GET", path: "/plasmid/v1/units/{name}/journal", least: RoleApp, handle: s.journal, endless: true},
		route{method: "GET", path: "/plasmid/v1/machines", least: RoleReader, handle: s.listMachines},
		route{method: "GET", path: "/plasmid/v1/reasons", least: RoleReader, handle: s.reasons},
		route{method: "GET", path: "/plasmid/v1/waiting", least: RoleReader, handle: s.waiting},
		route{method: "PUT", path: "/plasmid/v1/machines/{machine}/order", least: RoleOperator, handle: s.setOrder},
		route{method: "DELETE", path: "/plasmid/v1/machines/{machine}/order", least: RoleOperator, handle: s.deleteOrder},
		route{method: "GET", path: "/plasmid/v1/rebalance", least: RoleReader, handle: s.getRebalance},
		route{method: "PUT", path: "/plasmid/v1/rebalance", least: RoleOperator, handle: s.setRebalance},
		route{method: "DELETE", path: "/plasmid/v1/rebalance", least: RoleOperator, handle: s.deleteRebalance},
		route{method: "GET", path: "/plasmid/v1/events", least: RoleReader, handle: s.events, endless: true},
		route{method: "GET", path: "/plasmid/v1/audit", least: RoleAdmin, handle: s.audit},
	)
	routes = append(routes, s.rebootRoutes()...)
	if s.Secrets != nil {
		routes = append(routes, s.secretRoutes()...)
	}
	if s.Metrics != nil {
		routes = append(routes, route{method: "GET", path: "/metrics", least: RoleReader, handle: s.Metrics.ServeHTTP})
	}
	if s.Blobs != nil {
		routes = append(routes,
			route{method: "GET", path: "/plasmid/v1/blobs/{digest}", least: RoleReader, handle: s.Blobs.ServeHTTP, endless: true},
			route{method: "PUT", path: "/plasmid/v1/blobs/{digest}", least: RoleOperator, handle: s.Blobs.ServeHTTP, endless: true, unaudited: true},
		)
	}
	return routes
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}

// failure is the body of every error, as fleet's clients expect it.
type failure struct {
	Error failureDetail `json:"error"`
}

type failureDetail struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func fail(w http.ResponseWriter, status int, err error) {
	write(w, status, failure{failureDetail{status, err.Error()}})
}

// failStore turns an error of the store into a status.
func failStore(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, store.ErrNotFound):
		fail(w, http.StatusNotFound, err)
	case errors.Is(err, store.ErrExists), errors.Is(err, store.ErrConflict):
		fail(w, http.StatusConflict, err)
	default:
		fail(w, http.StatusServiceUnavailable, err)
	}
}

// health answers as long as the daemon lives, whatever the store does: by it
// the engine asks a silent machine whether it is alive.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	current, since := s.Mirror.Current()
	v := s.Mirror.View()
	write(w, http.StatusOK, map[string]any{
		"machine": s.MachineID, "version": s.Version, "store": current, "since": since, "revision": v.Revision,
		"leader": v.Leader, "schema": v.Identity.Version,
	})
}

// readable refuses while there is no view, so that nobody takes a cluster that
// is not known yet for an empty one.
func (s *server) readable(w http.ResponseWriter) (*store.View, bool) {
	v := s.Mirror.View()
	if v.Revision == 0 {
		fail(w, http.StatusServiceUnavailable, errors.New("unable to communicate with etcd: this machine has not read the store yet"))
		return nil, false
	}
	return v, true
}

// settle waits until the view shows a change that was just made.
func (s *server) settle(ctx context.Context, revision int64) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := s.Mirror.Wait(ctx, revision); err != nil {
		s.Logger.Warn("the view is behind a change", "revision", revision, "err", err)
	}
}

func decodeBody(r *http.Request, v any) error {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		return fmt.Errorf("the request's body is not the JSON that is expected: %w", err)
	}
	return nil
}
