package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"plasmid/runtime/api"
	"plasmid/runtime/node"
	"plasmid/runtime/store"
)

// Plan is what a deployment would change.
type Plan struct {
	Changes []Change

	app    *App
	builds []Built
	refs   map[string]string // of images, by their names
	have   map[string]api.Unit
}

// Change is one thing that is other in the app's directory than on the cluster.
type Change struct {
	Op   string `json:"op"`   // + - ~
	Kind string `json:"kind"` // unit, key or certificate
	Name string `json:"name"`
	// Lines are what differs: each begins with + or -.
	Lines []string `json:"lines,omitempty"`
}

// MakePlan compares an app with what the cluster has of it. It changes nothing.
func MakePlan(ctx context.Context, c Cluster, a *App, builds []Built) (*Plan, error) {
	p := &Plan{app: a, builds: builds, refs: references(a, builds)}
	if err := foreign(ctx, c.Client, a); err != nil {
		return nil, err
	}
	var err error
	if p.have, err = deployed(ctx, c.Client, a.Name); err != nil {
		return nil, err
	}
	keys, secrets, err := stored(ctx, c, a.Name)
	if err != nil {
		return nil, err
	}
	p.compare(keys, secrets)
	return p, nil
}

// CheckSecrets refuses an app whose containers would start without secrets that
// they need. It is asked first, before images are built.
func CheckSecrets(ctx context.Context, c Cluster, a *App) error {
	if len(a.Secrets) == 0 {
		return nil
	}
	_, secrets, err := stored(ctx, c, a.Name)
	if err != nil {
		return err
	}
	return unset(a, secrets)
}

func unset(a *App, secrets map[string]bool) error {
	var errs []error
	for _, s := range a.Secrets {
		if secrets[s.Name] {
			continue
		}
		what := ""
		if s.Description != "" {
			what = " (" + s.Description + ")"
		}
		errs = append(errs, fmt.Errorf("%s:%d: secret %s%s is not set; set it with: plasmid secret set %s %s",
			s.Range.Filename, s.Range.Start.Line, s.Name, what, a.Name, s.Name))
	}
	return errors.Join(errs...)
}

// references are the images' names on every machine, pinned by their digests.
func references(a *App, builds []Built) map[string]string {
	refs := map[string]string{}
	for _, b := range builds {
		refs[b.Name] = fmt.Sprintf("%s/%s/%s@%s", net.JoinHostPort("127.0.0.1", strconv.Itoa(node.ImagePort)), a.Name, b.Name, b.Digest)
	}
	return refs
}

// stored reads the keys that were set by the last deployment, and the names of
// the app's secrets.
func stored(ctx context.Context, c Cluster, app string) (keys map[string]string, secrets map[string]bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	s, err := c.Access.OpenStore(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	if keys, err = s.AppKeys(ctx, app); err != nil {
		return nil, nil, err
	}
	list, err := s.Secrets(ctx, app)
	return keys, secretNames(list), err
}

func secretNames(list []store.SecretInfo) map[string]bool {
	names := map[string]bool{}
	for _, s := range list {
		names[s.Name] = true
	}
	return names
}

// missingCertificates are those of which not both halves are there.
func missingCertificates(a *App, secrets map[string]bool) []string {
	return slices.DeleteFunc(slices.Clone(a.Certificates), func(n string) bool { return secrets[n+".crt"] && secrets[n+".key"] })
}

func (p *Plan) compare(keys map[string]string, secrets map[string]bool) {
	for _, n := range missingCertificates(p.app, secrets) {
		p.add("+", "certificate", n)
	}
	for _, k := range slices.Sorted(maps.Keys(p.app.Keys)) {
		value := p.app.Keys[k]
		switch old, exists := keys[k]; {
		case !exists:
			p.add("+", "key", k, "+"+value)
		case old != value:
			p.add("~", "key", k, "-"+old, "+"+value)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if _, ok := p.app.Keys[k]; !ok {
			p.add("-", "key", k, "-"+keys[k])
		}
	}
	for _, u := range p.app.Units {
		text := p.app.text(u, p.refs)
		for _, n := range u.Names {
			switch old, exists := p.have[n]; {
			case !exists:
				p.add("+", "unit", n)
			case old.Text != text:
				p.add("~", "unit", n, differing(old.Text, text)...)
			case old.Wish != store.Launched:
				p.add("~", "unit", n, "-"+string(old.Wish), "+"+string(store.Launched))
			}
		}
	}
	for _, n := range p.others() {
		p.add("-", "unit", n)
	}
}

func (p *Plan) add(op, kind, name string, lines ...string) {
	p.Changes = append(p.Changes, Change{op, kind, name, lines})
}

func (p *Plan) has(kind string) bool {
	return slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Kind == kind })
}

// others are the app's units on the cluster that its directory does not have.
func (p *Plan) others() []string {
	var names []string
	for _, n := range slices.Sorted(maps.Keys(p.have)) {
		if !slices.ContainsFunc(p.app.Units, func(u Unit) bool { return slices.Contains(u.Names, n) }) {
			names = append(names, n)
		}
	}
	return names
}

// differing are the lines that only one of two texts has, in their order, by
// the longest common subsequence.
func differing(old, text string) []string {
	a, b := strings.Split(old, "\n"), strings.Split(text, "\n")
	common := make([][]int, len(a)+1) // of a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i, x := range slices.Backward(a) {
		for j, y := range slices.Backward(b) {
			if x == y {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "-"+a[i])
			i++
		default:
			out = append(out, "+"+b[j])
			j++
		}
	}
	return out
}
