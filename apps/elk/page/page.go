// Package page is where people look at what is in the store: a histogram by
// status, facets, a search and the events themselves.
package page

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// static is the page; static/uplot is uPlot 1.6.32 as npm has it.
//
//go:embed static
var static embed.FS

// policy lets the page load from where it came from and nothing else: no
// script in the page itself, no other site, no frame around it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Limits of what is asked of the store.
const (
	maxQuery     = 4 << 10 // bytes
	maxRows      = 1000
	queryTimeout = 10 * time.Second
	maxAnswer    = 16 << 20 // bytes
)

// questions are what the page may ask, by the last part of its URL, with the
// parameters that are handed on. All of them only read.
var questions = map[string][]string{
	"hits":   {"query", "start", "end", "step", "field"},
	"facets": {"query", "start", "end", "limit", "keep_const_fields"},
	"query":  {"query", "start", "end", "limit"},
}

// Handler serves the page over the store at a URL. The page's own URLs are
// relative, so it can be anywhere below a proxy.
func Handler(store string) (http.Handler, error) {
	base, err := url.Parse(store)
	if err != nil || base.Scheme != "http" || base.Host == "" {
		return nil, fmt.Errorf("%q is no http:// URL of a store", store)
	}
	files, err := fs.Sub(static, "static")
	if err != nil {
		return nil, err
	}
	p := &page{base: base, client: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 8, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
	}}}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /api/{question}", p.ask)
	mux.HandleFunc("GET /health", p.health)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		mux.ServeHTTP(w, r)
	}), nil
}

type page struct {
	base   *url.URL
	client *http.Client
}

// ask hands a question to the store, and its answer back.
func (p *page) ask(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("question")
	allowed, ok := questions[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	q := url.Values{"timeout": {queryTimeout.String()}}
	for key, values := range r.URL.Query() {
		if !slices.Contains(allowed, key) || len(values) != 1 {
			http.Error(w, fmt.Sprintf("%s takes %v, each once", name, allowed), http.StatusBadRequest)
			return
		}
		q.Set(key, values[0])
	}
	if len(q.Get("query")) > maxQuery {
		http.Error(w, fmt.Sprintf("a query has %d bytes at most", maxQuery), http.StatusBadRequest)
		return
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if name == "query" && (err != nil || limit < 1 || limit > maxRows) {
		http.Error(w, fmt.Sprintf("limit is from 1 to %d", maxRows), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout+time.Second)
	defer cancel()
	resp, err := p.get(ctx, "/select/logsql/"+name, q)
	if err != nil {
		http.Error(w, "the store does not answer: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", "application/json")
	if resp.StatusCode != http.StatusOK {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(resp.Body, maxAnswer)) // the browser may be gone
}

func (p *page) get(ctx context.Context, path string, q url.Values) (*http.Response, error) {
	u := p.base.JoinPath(path)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	return p.client.Do(req)
}

// health is good when the store's is: the two are in one container.
func (p *page) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	resp, err := p.get(ctx, "/health", nil)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
	}
	if err != nil {
		http.Error(w, "the store: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
