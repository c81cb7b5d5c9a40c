package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"plasmid/internal/progress"
	"plasmid/internal/selfsigned"
	"plasmid/provision/join"
	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/images"
	"plasmid/runtime/store"
)

// Cluster is where an app is deployed to.
type Cluster struct {
	Access *join.Access
	Client *client.Client
	// Await waits until units are ready, for a time; the command line has the
	// words for what goes wrong.
	Await func(ctx context.Context, units []string, timeout time.Duration) error
	Log   *progress.Log
}

// Result is what a deployment did.
type Result struct {
	Changed []string // units that are new or changed
	Removed []string
	Front   string // URL, empty if the app has none
}

// Deploy carries out a plan: images first, then keys and certificates, then
// units in their order, each started when those before are ready. Units that
// have not changed are left alone.
func Deploy(ctx context.Context, c Cluster, p *Plan) (Result, error) {
	var r Result
	// Also when no unit changes: machines may have been replaced by new ones, which
	// have no images.
	if err := c.push(ctx, p.app, p.builds, p.has("unit")); err != nil {
		return r, err
	}
	// Also when nothing else changes: its certificate may have to be renewed.
	if err := prepare(ctx, c.Access, p.app); err != nil {
		return r, err
	}
	for _, u := range p.app.Units {
		if err := c.start(ctx, p, u, &r); err != nil {
			return r, err
		}
	}
	if err := c.removeOthers(ctx, p, &r); err != nil {
		return r, err
	}
	var err error
	r.Front, err = FrontURL(ctx, c.Client, p.app)
	return r, err
}

// push sees to it that enough machines have the images. If they are not new, the
// machines that answer have to do: others may be starting.
func (c Cluster) push(ctx context.Context, a *App, builds []Built, fresh bool) error {
	endpoints, err := c.Access.Endpoints()
	if err != nil {
		return err
	}
	http := &http.Client{Transport: &http.Transport{
		TLSClientConfig: c.Access.ClientTLS(), MaxIdleConnsPerHost: 4,
		DialContext: c.Access.DialContext, TLSHandshakeTimeout: dialTimeout,
	}}
	defer http.CloseIdleConnections()
	have, lack := make([][]string, len(builds)), make([][]string, len(builds))
	var wg sync.WaitGroup
	for i, b := range builds { // together: a machine that is lost is waited for once
		wg.Go(func() { have[i], lack[i] = images.Holders(ctx, http, endpoints, b.Digest) })
	}
	wg.Wait()
	for i, b := range builds {
		to := endpoints
		if !fresh {
			to = slices.Concat(have[i], lack[i])
		}
		if len(to) > 0 && len(have[i]) >= min(images.Copies, len(to)) {
			continue
		}
		task := c.Log.Start("image %s/%s to %d machines", a.Name, b.Name, min(images.Copies, len(to)))
		if err := task.Done(images.Push(ctx, http, to, b.Layout, b.Digest)); err != nil {
			return err
		}
	}
	return nil
}

// dialTimeout is for reaching one machine: one that is lost holds nobody up.
const dialTimeout = 3 * time.Second

// foreign refuses to take over units that are another app's, or nobody's.
func foreign(ctx context.Context, c *client.Client, a *App) error {
	var names []string
	for _, u := range a.Units {
		names = append(names, u.Names...)
	}
	if len(names) == 0 {
		return nil
	}
	list, err := c.Units(ctx, names, false, 0)
	if err != nil {
		return err
	}
	for _, u := range list.Units {
		if u.Hash == "" || u.App == a.Name {
			continue
		}
		owner := "app " + u.App
		if u.App == "" {
			owner = "no app"
		}
		return fmt.Errorf("unit %s exists already and belongs to %s; name it otherwise in %s, or destroy the other one", u.Name, owner, filepath.Join(a.Dir, "app.hcl"))
	}
	return nil
}

// deployed lists the app's units that the cluster has.
func deployed(ctx context.Context, c *client.Client, app string) (map[string]api.Unit, error) {
	list, err := c.Units(ctx, nil, true, 0)
	if err != nil {
		return nil, err
	}
	have := map[string]api.Unit{}
	for _, u := range list.Units {
		if u.App == app {
			have[u.Name] = u
		}
	}
	return have, nil
}

// start brings a unit's instances to what the plan says. New ones are started
// together; those that run are replaced one after the other, and all are taken
// back if one does not become ready.
func (c Cluster) start(ctx context.Context, p *Plan, u Unit, r *Result) error {
	text := p.app.text(u, p.refs)
	var fresh, replaced []string
	for _, n := range u.Names {
		switch old, exists := p.have[n]; {
		case !exists || old.Wish != store.Launched:
			fresh = append(fresh, n)
		case old.Text != text:
			replaced = append(replaced, n)
		}
	}
	r.Changed = append(append(r.Changed, fresh...), replaced...)
	if err := c.launch(ctx, u, text, fresh); err != nil {
		return err
	}
	for i, n := range replaced {
		err := c.launch(ctx, u, text, []string{n})
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		if back := c.takeBack(ctx, p, u, replaced[:i+1]); back != nil {
			return fmt.Errorf("%w\nits old version could not be brought back either: %w", err, back)
		}
		return fmt.Errorf("%w\n%s runs as it did before; what changed before it stays changed", err, u.Name)
	}
	if len(fresh)+len(replaced) == 0 && len(u.Names) > 0 {
		return c.Await(ctx, u.Names, u.Timeout)
	}
	return nil
}

// takeBack gives instances their old text, the last first: it is the one that
// does not work.
func (c Cluster) takeBack(ctx context.Context, p *Plan, u Unit, names []string) error {
	for _, n := range slices.Backward(names) {
		if err := c.launch(ctx, u, p.have[n].Text, []string{n}); err != nil {
			return err
		}
	}
	return nil
}

// launch starts units and waits until they are ready.
func (c Cluster) launch(ctx context.Context, u Unit, text string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var changes []api.Change
	for _, n := range names {
		changes = append(changes, api.Change{Name: n, Text: text, Wish: store.Launched, Replace: true})
	}
	if _, err := c.Client.Apply(ctx, changes); err != nil {
		return err
	}
	what := u.Name
	if len(names) == 1 {
		what = names[0]
	}
	task := c.Log.Start("%s: %d to be ready", what, len(names))
	return task.Done(c.Await(ctx, names, u.Timeout))
}

// removeOthers destroys units of the app that its directory no longer has.
func (c Cluster) removeOthers(ctx context.Context, p *Plan, r *Result) error {
	r.Removed = p.others()
	if len(r.Removed) == 0 {
		return nil
	}
	var changes []api.Change
	for _, n := range r.Removed {
		changes = append(changes, api.Change{Name: n, Delete: true})
	}
	_, err := c.Client.Apply(ctx, changes)
	return err
}

// FrontURL is the URL at which the app answers, empty if it has none.
func FrontURL(ctx context.Context, c *client.Client, a *App) (string, error) {
	if a.Front == nil {
		return "", nil
	}
	list, err := c.Units(ctx, []string{a.Front.Unit}, false, 0)
	if err != nil {
		return "", err
	}
	for _, u := range list.Units {
		for _, row := range u.On {
			host := row.PublicIP
			if host == "" {
				host = row.Address
			}
			if a.Front.Port != 80 {
				host = net.JoinHostPort(host, strconv.Itoa(a.Front.Port))
			}
			return "http://" + host + "/" + strings.TrimPrefix(a.Front.Path, "/"), nil
		}
	}
	return "", fmt.Errorf("the front unit %s is on no machine", a.Front.Unit)
}

const etcdTimeout = 30 * time.Second

// prepare makes what is an app's own in the store: its user in etcd and the
// certificate by which its containers are that user, its keys, and its
// certificates. What is there, and good for long enough, stays.
func prepare(ctx context.Context, access *join.Access, a *App) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	s, err := access.OpenStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := giveAccess(ctx, s, access, a.Name); err != nil {
		return err
	}
	if err := s.SetAppKeys(ctx, a.Name, a.Keys); err != nil {
		return err
	}
	return giveCertificates(ctx, s, a)
}

func giveAccess(ctx context.Context, s *store.Store, a *join.Access, app string) error {
	if err := join.SecureApp(ctx, s.Client(), app); err != nil {
		return err
	}
	have, err := s.AppAccess(ctx, app)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if a.AppCertGood(app, have.Cert, time.Now()) && have.CA == string(a.CA()) {
		return nil
	}
	cert, key, err := a.IssueApp(app)
	if err != nil {
		return err
	}
	return s.PutAppAccess(ctx, app, store.AppAccess{CA: string(a.CA()), Cert: string(cert), Key: string(key)})
}

// giveCertificates makes the pairs that are not there: secrets <name>.crt and
// <name>.key. A pair stays until one of the two is removed, so that a restart
// or another deployment never parts those who share it.
func giveCertificates(ctx context.Context, s *store.Store, a *App) error {
	have, err := s.Secrets(ctx, a.Name)
	if err != nil {
		return err
	}
	for _, name := range missingCertificates(a, secretNames(have)) {
		cert, key, err := selfsigned.Make(name + "." + a.Name + ".plasmid")
		if err != nil {
			return err
		}
		for suffix, value := range map[string][]byte{".crt": cert, ".key": key} {
			if _, err := s.PutSecret(ctx, a.Name, name+suffix, store.Secret{Value: value, Changed: time.Now()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Destroy takes the app off the cluster: its units, and when they are gone its
// keys and its user in etcd. It returns the units' names.
func Destroy(ctx context.Context, c Cluster, app string) ([]string, error) {
	have, err := deployed(ctx, c.Client, app)
	if err != nil {
		return nil, err
	}
	var names []string
	var changes []api.Change
	for n := range have {
		names = append(names, n)
		changes = append(changes, api.Change{Name: n, Delete: true})
	}
	slices.SortFunc(names, strings.Compare)
	if len(changes) > 0 {
		if _, err := c.Client.Apply(ctx, changes); err != nil {
			return nil, err
		}
		if err := c.Await(ctx, names, DefaultTimeout); err != nil {
			return names, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	s, err := c.Access.OpenStore(ctx)
	if err != nil {
		return names, err
	}
	defer s.Close()
	return names, errors.Join(s.DeleteApp(ctx, app), join.DropApp(ctx, s.Client(), app))
}
