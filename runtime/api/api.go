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

	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
)

// Store is what changes units and metadata.
type Store interface {
	ApplyUnits(ctx context.Context, changes []store.UnitChange) (int64, error)
	SetMetadata(ctx context.Context, machine, key, value string) (int64, error)
	DeleteMetadata(ctx context.Context, machine, key string) (int64, error)
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

// Config of the API.
type Config struct {
	Store     Store
	Mirror    Mirror
	Units     Units
	MachineID string
	Version   string
	// Unplaced is the engine's, on the machine that leads.
	Unplaced func() map[string][]schedule.Verdict
	// Peers speaks mutual TLS with other machines.
	Peers *http.Client
	// Blobs serves container images.
	Blobs  http.Handler
	Logger *slog.Logger
}

type server struct{ Config }

// maxBody is the largest request that is not a blob, in bytes.
const maxBody = 8 << 20

// New returns the handler. Who may call it is decided by Authorize, before.
func New(c Config) http.Handler {
	s := &server{c}
	mux := http.NewServeMux()
	for _, prefix := range []string{"/fleet/v1", "/v1-alpha", "/fleet/v1-alpha"} {
		s.fleet(mux, prefix)
	}
	mux.HandleFunc("GET /plasmid/v1/health", s.health)
	mux.HandleFunc("GET /plasmid/v1/units", s.listUnits)
	mux.HandleFunc("POST /plasmid/v1/units", s.applyUnits)
	mux.HandleFunc("POST /plasmid/v1/units/{name}/restart", s.restart)
	mux.HandleFunc("GET /plasmid/v1/units/{name}/status", s.status)
	mux.HandleFunc("GET /plasmid/v1/units/{name}/journal", s.journal)
	mux.HandleFunc("GET /plasmid/v1/machines", s.listMachines)
	mux.HandleFunc("GET /plasmid/v1/reasons", s.reasons)
	if c.Blobs != nil {
		mux.Handle("/plasmid/v1/blobs/", c.Blobs)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.URL.Path != "/plasmid/v1/blobs/" && !isBlob(r) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		mux.ServeHTTP(w, r)
	})
}

func isBlob(r *http.Request) bool {
	const p = "/plasmid/v1/blobs/"
	return len(r.URL.Path) > len(p) && r.URL.Path[:len(p)] == p
}

// Authorize lets through requests whose client certificate has one of the
// roles, which is the certificate's organization.
func Authorize(next http.Handler, roles ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			for _, have := range r.TLS.PeerCertificates[0].Subject.Organization {
				for _, role := range roles {
					if have == role {
						next.ServeHTTP(w, r)
						return
					}
				}
			}
		}
		fail(w, http.StatusForbidden, errors.New("this certificate gives no right to use the API"))
	})
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
