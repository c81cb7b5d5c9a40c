// Package discovery finds out whether units are ready, and keeps the keys of
// those that are in the store.
package discovery

import (
	"context"
	"log/slog"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"plasmid/runtime/container"
	"plasmid/runtime/unit"
)

// Containers is what is asked of Docker.
type Containers interface {
	Inspect(ctx context.Context, name string) (container.State, error)
	// Events calls f with the names of containers that changed, until ctx
	// ends; an empty name stands for all.
	Events(ctx context.Context, f func(container string)) error
}

// Registrar keeps keys on the machine's lease.
type Registrar interface {
	Register(ctx context.Context, key, value string) error
	Unregister(ctx context.Context, key string) error
}

// Facts are what values of registrations may name.
type Facts struct{ MachineID, Name, PrivateIPv4, PublicIPv4 string }

// Prefix of the keys that apps see.
const Prefix = "/apps/"

// Discovery watches the readiness of units and registers those that are ready.
type Discovery struct {
	facts      Facts
	containers Containers
	report     func(unit string, ready bool, why error)
	registry   *registry

	mu      sync.Mutex
	watched map[string]*watched
}

type watched struct {
	container string
	stop      context.CancelFunc
	nudge     chan struct{}
}

// New returns a Discovery that tells report of every change of readiness.
func New(f Facts, c Containers, log *slog.Logger, report func(unit string, ready bool, why error)) *Discovery {
	return &Discovery{facts: f, containers: c, report: report, registry: newRegistry(log), watched: map[string]*watched{}}
}

// Run listens to Docker and writes registrations until ctx ends.
func (d *Discovery) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.containers.Events(ctx, d.containerChanged) })
	wg.Go(func() { d.registry.run(ctx) })
	wg.Wait()
}

// SetRegistrar is called with every new session: all keys go onto its lease.
func (d *Discovery) SetRegistrar(r Registrar) { d.registry.use(r) }

// Has reports whether a key is registered, or to be.
func (d *Discovery) Has(key string) bool { return d.registry.has(key) }

// Watch begins to check a unit that has become active, until ctx ends or the
// unit is unwatched. A unit that is watched already goes on as it does.
func (d *Discovery) Watch(ctx context.Context, spec unit.Spec) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watched[spec.Name] != nil {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	w := &watched{container: ContainerOf(spec), stop: stop, nudge: make(chan struct{}, 1)}
	d.watched[spec.Name] = w
	check := &watch{spec: spec, nudged: w.nudge, report: func(ready bool, c container.State, why error) {
		d.change(w, spec, ready, c, why)
	}}
	if w.container != "" {
		check.inspect = func(ctx context.Context) (container.State, error) { return d.containers.Inspect(ctx, w.container) }
	}
	go check.run(ctx)
}

// Unwatch ends the checks and takes the unit's keys away. gone is closed when
// they are, so that a unit can be stopped after nobody is sent to it any more.
func (d *Discovery) Unwatch(name string) (gone <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.watched[name]
	if w == nil {
		return d.registry.want(name, nil)
	}
	w.stop()
	delete(d.watched, name)
	return d.registry.want(name, nil)
}

// ContainerOf is the name of a unit's container: the one that the unit names,
// or one named as the unit. A unit that neither names one nor has images has
// none.
func ContainerOf(s unit.Spec) string {
	if s.Container != "" || len(s.Images) == 0 {
		return s.Container
	}
	return s.Name[:strings.LastIndexByte(s.Name, '.')]
}

func (d *Discovery) containerChanged(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.watched {
		if w.container == "" || name != "" && w.container != name {
			continue
		}
		select {
		case w.nudge <- struct{}{}:
		default:
		}
	}
}

// change takes the outcome of a check. One that comes after Unwatch counts no
// more.
func (d *Discovery) change(w *watched, spec unit.Spec, ready bool, c container.State, why error) {
	var keys map[string]string
	if ready {
		keys = map[string]string{}
		for _, r := range spec.Register {
			keys[path.Join(Prefix, spec.App, r.Key)] = d.expand(r.Value, c)
		}
	}
	d.mu.Lock()
	current := d.watched[spec.Name] == w
	if current {
		d.registry.want(spec.Name, keys)
	}
	d.mu.Unlock()
	if current {
		d.report(spec.Name, ready, why)
	}
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
