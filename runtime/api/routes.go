package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Role is what a client certificate entitles to; it is the certificate's
// organization.
type Role string

const (
	RoleAdmin    Role = "admin"    // everything
	RoleOperator Role = "operator" // reads, and changes units, where they run, and images
	RoleReader   Role = "reader"   // reads
	RoleApp      Role = "app"      // reads its own units
	RoleNode     Role = "node"     // a machine: it passes on what others asked it for
)

// rank orders the roles that people and apps have: each may do all that those
// below may.
var rank = map[Role]int{RoleApp: 1, RoleReader: 2, RoleOperator: 3, RoleAdmin: 4}

// appPrefix begins the common name of an app's certificate.
const appPrefix = "app-"

// Caller is who sent a request.
type Caller struct {
	Name string // the certificate's common name
	Role Role
	App  string // of an app
	From string // address
}

// may reports whether a caller may use a route that is for the role.
func (c Caller) may(least Role) bool {
	return c.Role == RoleNode || rank[c.Role] >= rank[least]
}

// route is one thing that the API can be asked for.
type route struct {
	method, path string
	least        Role // who may ask
	handle       http.HandlerFunc
	// endless answers go on for as long as the client wants, and are not timed.
	endless bool
	// unaudited changes are too many and say nothing: an image is named by its
	// digest.
	unaudited bool
}

// callerOf tells who sends a request. Only root can connect to the socket,
// where there are no certificates.
func callerOf(r *http.Request) (Caller, bool) {
	if r.TLS == nil {
		return Caller{Name: "root", Role: RoleAdmin, From: "socket"}, true
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return Caller{}, false
	}
	subject := r.TLS.PeerCertificates[0].Subject
	c := Caller{Name: subject.CommonName, From: r.RemoteAddr}
	for _, o := range subject.Organization {
		switch role := Role(o); {
		case role == RoleNode:
			c.Role = role
			return c, true
		case rank[role] > rank[c.Role]:
			c.Role = role
		}
	}
	if c.Role == RoleApp {
		c.App = strings.TrimPrefix(c.Name, appPrefix)
	}
	return c, c.Role != ""
}

type contextKey int

const (
	callerKey contextKey = iota
	notesKey
)

// caller is who sent the request that is being handled.
func caller(r *http.Request) Caller {
	c, _ := r.Context().Value(callerKey).(Caller)
	return c
}

// notes are what a handler did, for the audit log.
type notes struct {
	what     []string
	revision int64
}

// note adds to the audit log what the request changed.
func note(r *http.Request, revision int64, what ...string) {
	if n, ok := r.Context().Value(notesKey).(*notes); ok {
		n.what = append(n.what, what...)
		n.revision = max(n.revision, revision)
	}
}

// mux makes the handler of all routes. Everything that does not exist is
// refused with the same kind of body as everything else.
func (s *server) mux(routes []route) http.Handler {
	mux := http.NewServeMux()
	byPath := map[string][]route{}
	var paths []string
	for _, rt := range routes {
		if byPath[rt.path] == nil {
			paths = append(paths, rt.path)
		}
		byPath[rt.path] = append(byPath[rt.path], rt)
	}
	for _, path := range paths {
		mux.Handle(path, s.methods(byPath[path]))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("there is no resource %s", r.URL.Path))
	})
	return mux
}

// methods picks the route of a path by the request's method.
func (s *server) methods(routes []route) http.Handler {
	var known []string
	for _, rt := range routes {
		known = append(known, rt.method)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		i := slices.Index(known, method)
		if i < 0 {
			w.Header().Set("Allow", strings.Join(known, ", "))
			fail(w, http.StatusMethodNotAllowed, fmt.Errorf("only %s supported against this resource", list(known)))
			return
		}
		s.serve(w, r, routes[i])
	})
}

// list is "GET, PUT and DELETE".
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// serve lets a request through to its route if its sender may, and sees that
// what it changed, or was refused, is written down.
func (s *server) serve(w http.ResponseWriter, r *http.Request, rt route) {
	begun := time.Now()
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	who, known := callerOf(r)
	n := &notes{}
	ctx := context.WithValue(context.WithValue(r.Context(), callerKey, who), notesKey, n)
	r = r.WithContext(ctx)
	switch {
	case !known:
		fail(rec, http.StatusForbidden, errors.New("this certificate gives no right to use the API"))
	case !who.may(rt.least):
		fail(rec, http.StatusForbidden, fmt.Errorf("%s has the role %s; %s %s needs the role %s", who.Name, who.Role, rt.method, rt.path, rt.least))
	default:
		if r.Method != http.MethodGet && !rt.unaudited {
			r.Body = http.MaxBytesReader(rec, r.Body, maxBody)
		}
		rt.handle(rec, r)
	}
	if s.Observe != nil {
		took := time.Since(begun)
		if rt.endless {
			took = 0
		}
		s.Observe(rt.method, rt.path, rec.status, took)
	}
	// What a machine passes on was written down where it came from.
	if s.Audit == nil || rt.method == http.MethodGet || rt.unaudited || passedOn(r) {
		return
	}
	if rec.status < 300 && len(n.what) == 0 {
		return // nothing had to change
	}
	s.Audit.Record(AuditEntry{
		Time: begun, Who: who.Name, Role: who.Role, From: who.From, Machine: s.MachineID,
		Request: r.Method + " " + r.URL.Path, What: n.what, Revision: n.revision, Status: rec.status,
	})
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }
