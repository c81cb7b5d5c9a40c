//go:build openstack

package openstack

import (
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"regexp"
	"sync"
)

// theProxy stands between the provider and the services.
var theProxy = &proxy{}

// proxy is an HTTP proxy that spoils some calls.
type proxy struct {
	mu     sync.Mutex
	faults []*fault
}

// fault spoils calls that it fits.
type fault struct {
	method string
	path   *regexp.Regexp
	times  int // how many calls are spoiled
	skip   int // how many go well before
	code   int // answered instead; 0: the connection is cut
	after  string
	body   string
	late   bool // the service does its work before its answer is lost
	hits   int
}

func (p *proxy) start() (stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	os.Setenv("HTTP_PROXY", "http://"+l.Addr().String())
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport: &http.Transport{MaxIdleConnsPerHost: 16},
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := p.match(r)
		switch {
		case f == nil:
			forward.ServeHTTP(w, r)
			return
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

// lost swallows an answer.
type lost struct{ h http.Header }

func (l *lost) Header() http.Header         { return l.h }
func (l *lost) Write(b []byte) (int, error) { return len(b), nil }
func (l *lost) WriteHeader(int)             {}

// spoil adds a fault.
func (p *proxy) spoil(method, path string, f fault) *fault {
	f.method, f.path = method, regexp.MustCompile(path)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &f)
	return &f
}

func (p *proxy) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

func (p *proxy) match(r *http.Request) *fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if f.method != "" && f.method != r.Method || !f.path.MatchString(r.URL.Path) {
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

func (p *proxy) hits(f *fault) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f.hits
}
