//go:build openstack

package openstack

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// theProxy stands between the provider and the services.
var theProxy = &proxy{tokens: map[string]string{}}

// proxy is an HTTP proxy that spoils some of the provider's calls, for each
// project others.
type proxy struct {
	mu     sync.Mutex
	tokens map[string]string // the project that each is for
	faults []*fault
}

// fault spoils calls that it fits.
type fault struct {
	project string
	method  string
	path    *regexp.Regexp
	times   int // how many calls are spoiled
	skip    int // how many go well before
	code    int // answered instead; 0: the connection is cut
	after   string
	body    string
	late    bool // the service does its work before its answer is lost
	met     func()
	hits    int
}

func (p *proxy) start() (stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	os.Setenv("HTTP_PROXY", "http://"+l.Addr().String())
	forward := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport:      &http.Transport{MaxIdleConnsPerHost: 64},
		ModifyResponse: p.remember,
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, err := asksFor(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		f := p.match(r)
		switch {
		case f == nil:
			forward.ServeHTTP(w, r)
			return
		case f.met != nil:
			f.met()
		case f.late:
			forward.ServeHTTP(&lost{http.Header{}}, r)
		}
		if f.code == 0 {
			panic(http.ErrAbortHandler)
		}
		if f.after != "" {
			w.Header().Set("Retry-After", f.after)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.code)
		w.Write([]byte(f.body))
	})}
	go s.Serve(l)
	return func() { s.Close() }, nil
}

// wanted is the key of the project that a call asks a token for.
type wanted struct{}

// asksFor reads which project a token is to be for.
func asksFor(r *http.Request) (*http.Request, error) {
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/auth/tokens") {
		return r, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var ask struct {
		Auth struct {
			Scope struct{ Project struct{ Name string } }
		}
	}
	if err := json.Unmarshal(body, &ask); err != nil {
		return nil, err
	}
	return r.WithContext(context.WithValue(r.Context(), wanted{}, ask.Auth.Scope.Project.Name)), nil
}

// remember keeps the token that was given out.
func (p *proxy) remember(resp *http.Response) error {
	if project, ok := resp.Request.Context().Value(wanted{}).(string); ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tokens[resp.Header.Get("X-Subject-Token")] = project
	}
	return nil
}

// lost swallows an answer.
type lost struct{ h http.Header }

func (l *lost) Header() http.Header         { return l.h }
func (l *lost) Write(b []byte) (int, error) { return len(b), nil }
func (l *lost) WriteHeader(int)             {}

// spoil adds a fault to a project's calls.
func (p *project) spoil(method, path string, f fault) {
	f.project, f.method, f.path = p.cloud, method, regexp.MustCompile(path)
	theProxy.mu.Lock()
	defer theProxy.mu.Unlock()
	theProxy.faults = append(theProxy.faults, &f)
}

// unused are the faults of a project that no call has met.
func (p *proxy) unused(project *project) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, f := range p.faults {
		if f.project == project.cloud && f.hits == 0 {
			out = append(out, f.method+" "+f.path.String())
		}
	}
	return out
}

func (p *proxy) clear(project *project) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = slices.DeleteFunc(p.faults, func(f *fault) bool { return f.project == project.cloud })
}

func (p *proxy) match(r *http.Request) *fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.HasPrefix(r.UserAgent(), "plasmid/") {
		return nil // the test's own
	}
	project := p.tokens[r.Header.Get("X-Auth-Token")]
	for _, f := range p.faults {
		if f.project != project || f.method != "" && f.method != r.Method || !f.path.MatchString(r.URL.Path) {
			continue
		}
		if f.skip > 0 {
			f.skip--
			continue
		}
		if f.hits < f.times {
			f.hits++
			return f
		}
	}
	return nil
}
