package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// here is the query that says not to ask other machines.
const here = "here"

// passedOn reports whether another machine passed a request on to this one.
// From anybody else the query would be a way around what they may see.
func passedOn(r *http.Request) bool {
	return caller(r).Role == RoleNode && r.URL.Query().Has(here)
}

// where finds the machines that have a unit; ?machine= picks one of several.
func where(v *store.View, name, machine string) ([]string, error) {
	var ids []string
	for _, id := range sortedNames(v.Placements[name]) {
		if machine == "" || strings.HasPrefix(id, machine) || v.Known[id].Name == machine {
			ids = append(ids, id)
		}
	}
	_, exists := v.Units[name]
	switch {
	case len(ids) > 0:
		return ids, nil
	case !exists:
		return nil, fmt.Errorf("unit %s: %w", name, store.ErrNotFound)
	case machine != "":
		return nil, fmt.Errorf("unit %s is not on machine %s", name, machine)
	}
	return nil, fmt.Errorf("unit %s is on no machine", name)
}

// onMachines runs f here, or has the machines that have the unit run it.
func (s *server) onMachines(w http.ResponseWriter, r *http.Request, f func(w io.Writer, name string) error) {
	name := r.PathValue("name")
	if _, err := unit.ParseName(name); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if passedOn(r) {
		if err := f(w, name); err != nil {
			s.Logger.Warn("answering for a unit failed", "unit", name, "err", err)
		}
		return
	}
	v, ok := s.readable(w)
	if !ok {
		return
	}
	if !visible(caller(r), v, name) {
		fail(w, http.StatusForbidden, fmt.Errorf("unit %s is not of app %s", name, caller(r).App))
		return
	}
	ids, err := where(v, name, r.URL.Query().Get("machine"))
	if err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	if len(ids) == 1 {
		s.proxy(w, r, v, ids[0])
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	if r.URL.Query().Has("follow") {
		s.braid(w, r, v, ids)
		return
	}
	for _, id := range ids {
		fmt.Fprintf(w, "== %s on %s ==\n", name, v.Known[id].Name)
		s.relay(flusher{w}, r, v, id)
		fmt.Fprintln(w)
	}
}

// braid follows several machines at once, with the machine's name before each
// line.
func (s *server) braid(w http.ResponseWriter, r *http.Request, v *store.View, ids []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			out := &prefixer{w: flusher{w}, mu: &mu, prefix: v.Known[id].Name + ": "}
			s.relay(out, r, v, id)
			out.end()
		})
	}
	wg.Wait()
}

// prefixer writes whole lines, each with a prefix.
type prefixer struct {
	w      io.Writer
	mu     *sync.Mutex // of w
	prefix string
	rest   []byte // of a line that is not whole yet
}

func (p *prefixer) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	whole := bytes.LastIndexByte(p.rest, '\n') + 1
	if whole == 0 {
		return len(data), nil
	}
	var out []byte
	for line := range bytes.Lines(p.rest[:whole]) {
		out = append(append(out, p.prefix...), line...)
	}
	p.rest = append(p.rest[:0], p.rest[whole:]...)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.w.Write(out)
	return len(data), err
}

func (p *prefixer) end() {
	if len(p.rest) > 0 {
		_, _ = p.Write([]byte("\n")) // the client is gone if this fails
	}
}

// relay writes what another machine answers, or a line that says why it does
// not.
func (s *server) relay(w io.Writer, r *http.Request, v *store.View, machine string) {
	resp, err := s.ask(r, v, machine)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	defer resp.Body.Close()
	_, _ = io.Copy(w, resp.Body) // the client is gone if this fails
}

// ask hands a request to a machine's API, this one's too.
func (s *server) ask(r *http.Request, v *store.View, machine string) (*http.Response, error) {
	m, ok := v.Machines[machine]
	if !ok {
		if m, ok = v.Known[machine]; !ok {
			return nil, fmt.Errorf("there is no machine %s", machine)
		}
	}
	url := *r.URL
	url.Scheme, url.Host = "https", m.Endpoint
	q := url.Query()
	q.Set(here, "1")
	url.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(r.Context(), r.Method, url.String(), r.Body)
	if err != nil {
		return nil, err
	}
	resp, err := s.Peers.Do(req)
	if err != nil {
		return nil, fmt.Errorf("machine %s does not answer: %w", m.Name, err)
	}
	return resp, nil
}

// proxy answers with what another machine answers.
func (s *server) proxy(w http.ResponseWriter, r *http.Request, v *store.View, machine string) {
	resp, err := s.ask(r, v, machine)
	if err != nil {
		fail(w, http.StatusBadGateway, err)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(flusher{w}, resp.Body) // the client is gone if this fails
}

// flusher sends every write on at once, so that a journal can be followed.
type flusher struct{ http.ResponseWriter }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	_ = http.NewResponseController(f.ResponseWriter).Flush() // not every writer can
	return n, err
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	s.onMachines(w, r, func(out io.Writer, name string) error {
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
		defer cancel()
		// systemctl status exits 3 for a unit that does not run.
		return stream(ctx, out, "systemctl", "status", "--full", "--no-pager", "--lines=10", "--", name)
	})
}

// journal sends a unit's log: ?lines= of it, and with ?follow=1 what comes.
func (s *server) journal(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	lines := 10
	if l := q.Get("lines"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 0 {
			fail(w, http.StatusBadRequest, fmt.Errorf("lines=%q is no number of lines", l))
			return
		}
		lines = n
	}
	format := q.Get("output")
	if format == "" {
		format = "short"
	}
	if strings.ContainsFunc(format, func(r rune) bool { return (r < 'a' || r > 'z') && r != '-' }) {
		fail(w, http.StatusBadRequest, fmt.Errorf("output=%q is no format of journalctl's", format))
		return
	}
	s.onMachines(w, r, func(out io.Writer, name string) error {
		args := []string{"--no-pager", "--lines=" + strconv.Itoa(lines), "--output=" + format, "--unit=" + name}
		if q.Has("follow") {
			args = append(args, "--follow")
		}
		return stream(r.Context(), out, "journalctl", args...)
	})
}

// stream runs a program and sends its output as it comes.
func stream(ctx context.Context, w io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	out := w
	if rw, ok := w.(http.ResponseWriter); ok {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		out = flusher{rw}
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) || ctx.Err() != nil {
		return nil
	}
	return err
}

// restart stops and starts a unit where it is, and answers when that is done.
func (s *server) restart(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if passedOn(r) {
		if err := s.Units.Restart(r.Context(), name); err != nil {
			fail(w, http.StatusConflict, err)
			return
		}
		write(w, http.StatusOK, map[string]string{"restarted": name})
		return
	}
	v, ok := s.readable(w)
	if !ok {
		return
	}
	ids, err := where(v, name, r.URL.Query().Get("machine"))
	if err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	note(r, v.Revision, "restarted "+name)
	for _, id := range ids[:len(ids)-1] {
		rec := &discard{header: http.Header{}}
		if s.proxy(rec, r, v, id); rec.status >= 400 {
			fail(w, rec.status, fmt.Errorf("restarting %s on %s: %s", name, v.Known[id].Name, strings.TrimSpace(string(rec.body))))
			return
		}
	}
	s.proxy(w, r, v, ids[len(ids)-1])
}

// discard keeps the answer of one machine out of several.
type discard struct {
	header http.Header
	status int
	body   []byte
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(s int)   { d.status = s }
func (d *discard) Write(p []byte) (int, error) {
	d.body = append(d.body, p...)
	return len(p), nil
}
