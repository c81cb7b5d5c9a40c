package discovery

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Zone is the domain of registered services.
const Zone = "plasmid."

// Endpoint is where an instance of a service answers.
type Endpoint struct {
	Instance string // the key's last part; empty if the service is one key
	Addr     netip.Addr
	Port     uint16 // 0: the registration names none
}

// Index has the registered services by name, in memory: a watch keeps it up to
// date, and lookups ask nobody.
type Index struct {
	mu       sync.RWMutex
	known    bool                           // there was a first snapshot
	services map[string]map[string]Endpoint // service.app → key → where
}

// NewIndex returns an index that knows nothing yet.
func NewIndex() *Index {
	return &Index{services: map[string]map[string]Endpoint{}}
}

// Update takes what changed. With snapshot, put is all there is.
func (x *Index) Update(snapshot bool, put map[string]string, deleted []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if snapshot {
		x.known = true
		clear(x.services)
	}
	for _, key := range deleted {
		x.remove(key)
	}
	for key, value := range put {
		x.remove(key)
		name, e, ok := parse(key, value)
		if !ok {
			continue
		}
		if x.services[name] == nil {
			x.services[name] = map[string]Endpoint{}
		}
		x.services[name][key] = e
	}
}

func (x *Index) remove(key string) {
	name, _, ok := names(key)
	if !ok {
		return
	}
	delete(x.services[name], key)
	if len(x.services[name]) == 0 {
		delete(x.services, name)
	}
}

// names splits <app>/<service>[/<instance>…]. DNS does not tell lower from
// upper case.
func names(key string) (name, instance string, ok bool) {
	app, rest, ok := strings.Cut(strings.ToLower(key), "/")
	service, instance, _ := strings.Cut(rest, "/")
	if !ok || app == "" || service == "" || strings.ContainsAny(service+instance, ".\\") {
		return "", "", false
	}
	return service + "." + app, strings.ReplaceAll(instance, "/", "-"), true
}

// parse reads a registration whose value is an address or address:port. Others
// are not for DNS.
func parse(key, value string) (name string, e Endpoint, ok bool) {
	name, e.Instance, ok = names(key)
	if !ok {
		return "", e, false
	}
	if a, err := netip.ParseAddr(value); err == nil {
		e.Addr = a.Unmap()
		return name, e, true
	}
	ap, err := netip.ParseAddrPort(value)
	if err != nil {
		return "", e, false
	}
	e.Addr, e.Port = ap.Addr().Unmap(), ap.Port()
	return name, e, true
}

// Known reports whether the index has heard of the store.
func (x *Index) Known() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.known
}

// Lookup returns the endpoints of service.app, or of instance.service.app, by
// address.
func (x *Index) Lookup(name string) []Endpoint {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if s := x.services[name]; s != nil {
		return sorted(maps.Values(s))
	}
	instance, service, _ := strings.Cut(name, ".")
	for _, e := range x.services[service] {
		if e.Instance == instance && instance != "" {
			return []Endpoint{e}
		}
	}
	return nil
}

// Has reports whether there is such an app.
func (x *Index) Has(app string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for name := range x.services {
		if strings.HasSuffix(name, "."+app) {
			return true
		}
	}
	return false
}

func sorted(seq func(func(Endpoint) bool)) []Endpoint {
	return slices.SortedFunc(seq, func(a, b Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Instance, b.Instance))
	})
}
