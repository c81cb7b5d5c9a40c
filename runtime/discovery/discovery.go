package discovery

import (
	"context"
	"log/slog"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"plasmid/runtime/container"
	"plasmid/runtime/unit"
)

// Registrar keeps keys on the machine's lease.
type Registrar interface {
	Register(ctx context.Context, key, value string) error
	Unregister(ctx context.Context, key string) error
}

// Facts are what values of registrations may name.
type Facts struct{ MachineID, Name, PrivateIPv4, PublicIPv4 string }

// Discovery watches the readiness of units and registers those that are ready.
type Discovery struct {
	facts      Facts
	containers Containers
	log        *slog.Logger
	report     func(unit string, ready bool, why error)

	mu        sync.Mutex
	watched   map[string]*watched
	registrar Registrar
}

type watched struct {
	spec unit.Spec
	stop context.CancelFunc
	done chan struct{}
	keys map[string]string // registered, or to be
}

// New returns a Discovery that tells report of every change of readiness.
func New(f Facts, c Containers, log *slog.Logger, report func(unit string, ready bool, why error)) *Discovery {
	return &Discovery{facts: f, containers: c, log: log, report: report, watched: map[string]*watched{}}
}

// Prefix of the keys that apps see.
const Prefix = "/apps/"

// SetRegistrar is called with every new session: all keys go onto its lease.
func (d *Discovery) SetRegistrar(ctx context.Context, r Registrar) {
	d.mu.Lock()
	d.registrar = r
	keys := map[string]string{}
	for _, w := range d.watched {
		for k, v := range w.keys {
			keys[k] = v
		}
	}
	d.mu.Unlock()
	for k, v := range keys {
		d.put(ctx, k, v)
	}
}

// Watch begins to check a unit that has become active.
func (d *Discovery) Watch(ctx context.Context, spec unit.Spec) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watched[spec.Name] != nil {
		return
	}
	wctx, stop := context.WithCancel(ctx)
	w := &watched{spec: spec, stop: stop, done: make(chan struct{}), keys: map[string]string{}}
	d.watched[spec.Name] = w
	go func() {
		defer close(w.done)
		watchReady(wctx, spec, func(ctx context.Context) (container.State, error) { return d.inspect(ctx, spec) },
			func(ready bool, c container.State, why error) { d.change(wctx, w, ready, c, why) })
	}()
}

// Unwatch ends the checks and takes the unit's keys away. It returns when they
// are gone, so that a unit is stopped only after nobody is sent to it.
func (d *Discovery) Unwatch(ctx context.Context, name string) {
	d.mu.Lock()
	w := d.watched[name]
	delete(d.watched, name)
	d.mu.Unlock()
	if w == nil {
		return
	}
	w.stop()
	<-w.done
	for k := range w.keys {
		d.remove(ctx, k)
	}
}

// inspect asks for the unit's container. A unit that names none, and has no
// images, has none.
func (d *Discovery) inspect(ctx context.Context, s unit.Spec) (container.State, error) {
	name := s.Container
	if name == "" {
		if len(s.Images) == 0 {
			return container.State{}, nil
		}
		name = s.Name[:strings.LastIndexByte(s.Name, '.')]
	}
	return d.containers.Inspect(ctx, name)
}

func (d *Discovery) change(ctx context.Context, w *watched, ready bool, c container.State, why error) {
	d.mu.Lock()
	old := w.keys
	w.keys = map[string]string{}
	if ready {
		for _, r := range w.spec.Register {
			w.keys[path.Join(Prefix, w.spec.App, r.Key)] = d.expand(r.Value, c)
		}
	}
	keys := w.keys
	d.mu.Unlock()
	for k := range old {
		if _, stays := keys[k]; !stays {
			d.remove(ctx, k)
		}
	}
	for k, v := range keys {
		d.put(ctx, k, v)
	}
	d.report(w.spec.Name, ready, why)
}

// Has reports whether a key is, or is to be, registered.
func (d *Discovery) Has(key string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.watched {
		if _, ok := w.keys[key]; ok {
			return true
		}
	}
	return false
}

// expand fills in ${…} in a registration's value.
func (d *Discovery) expand(value string, c container.State) string {
	return os.Expand(value, func(name string) string {
		switch name {
		case "HOST_IP":
			return d.facts.PrivateIPv4
		case "PUBLIC_IP":
			return d.facts.PublicIPv4
		case "MACHINE_ID":
			return d.facts.MachineID
		case "NAME":
			return d.facts.Name
		}
		if port, ok := strings.CutPrefix(name, "PORT_"); ok {
			if inside, err := strconv.Atoi(port); err == nil {
				if outside, ok := c.Ports[inside]; ok {
					return strconv.Itoa(outside)
				}
				return port
			}
		}
		return ""
	})
}

const storeTimeout = 5 * time.Second

func (d *Discovery) put(ctx context.Context, key, value string) {
	d.mu.Lock()
	r := d.registrar
	d.mu.Unlock()
	if r == nil {
		return // the next session registers all
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := r.Register(ctx, key, value); err != nil {
		d.log.Warn("a key could not be registered; the next session does it", "key", key, "err", err)
	}
}

func (d *Discovery) remove(ctx context.Context, key string) {
	d.mu.Lock()
	r := d.registrar
	d.mu.Unlock()
	if r == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := r.Unregister(ctx, key); err != nil {
		d.log.Warn("a key could not be taken away; the lease's end does it", "key", key, "err", err)
	}
}
