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
	"time"

	"plasmid/internal/progress"
	"plasmid/provision/join"
	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/images"
	"plasmid/runtime/node"
	"plasmid/runtime/store"
)

// Cluster is where an app is deployed to.
type Cluster struct {
	Access *join.Access
	Client *client.Client
	// Await waits until units are ready; the command line has the words for
	// what goes wrong.
	Await func(ctx context.Context, units []string) error
	Log   *progress.Log
}

// Result is what a deployment did.
type Result struct {
	Changed []string // units that are new or changed
	Removed []string
	Front   string // URL, empty if the app has none
}

// Deploy brings the app on the cluster up to its directory: images first, then
// units in their order, each started when those before are ready. Units that
// have not changed are left alone.
func Deploy(ctx context.Context, c Cluster, a *App, builds []Built) (Result, error) {
	var r Result
	endpoints, err := c.Access.Endpoints()
	if err != nil {
		return r, err
	}
	refs := map[string]string{}
	http := &http.Client{Transport: &http.Transport{
		TLSClientConfig: c.Access.ClientTLS(), MaxIdleConnsPerHost: 4,
		DialContext: c.Access.DialContext, TLSHandshakeTimeout: dialTimeout,
	}}
	defer http.CloseIdleConnections()
	for _, b := range builds {
		refs[b.Name] = fmt.Sprintf("%s/%s/%s@%s", net.JoinHostPort("127.0.0.1", strconv.Itoa(node.ImagePort)), a.Name, b.Name, b.Digest)
	}
	if err := foreign(ctx, c.Client, a); err != nil {
		return r, err
	}
	have, err := deployed(ctx, c.Client, a.Name)
	if err != nil {
		return r, err
	}
	if changed(a, have, refs) {
		for _, b := range builds {
			task := c.Log.Start("image %s/%s to %d machines", a.Name, b.Name, min(images.Copies, len(endpoints)))
			if err := task.Done(images.Push(ctx, http, endpoints, b.Layout, b.Digest)); err != nil {
				return r, err
			}
		}
	}
	// Also when nothing else changes: its certificate may have to be renewed.
	if err := giveAccess(ctx, c.Access, a.Name); err != nil {
		return r, err
	}
	for _, u := range a.Units {
		if err := c.start(ctx, a, u, have, refs, &r); err != nil {
			return r, err
		}
	}
	if err := c.removeOthers(ctx, a, have, &r); err != nil {
		return r, err
	}
	r.Front, err = FrontURL(ctx, c.Client, a)
	return r, err
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

// changed reports whether any unit of the app is new or another.
func changed(a *App, have map[string]api.Unit, refs map[string]string) bool {
	for _, u := range a.Units {
		for _, n := range u.Names {
			if have[n].Text != a.text(u, refs) || have[n].Wish != store.Launched {
				return true
			}
		}
	}
	return false
}

func (c Cluster) start(ctx context.Context, a *App, u Unit, have map[string]api.Unit, refs map[string]string, r *Result) error {
	text := a.text(u, refs)
	var changes []api.Change
	for _, n := range u.Names {
		if have[n].Text != text || have[n].Wish != store.Launched {
			changes = append(changes, api.Change{Name: n, Text: text, Wish: store.Launched, Replace: true})
			r.Changed = append(r.Changed, n)
		}
	}
	if len(changes) > 0 {
		if _, err := c.Client.Apply(ctx, changes); err != nil {
			return err
		}
	}
	if len(u.Names) == 0 {
		return nil
	}
	task := (*progress.Task)(nil)
	if len(changes) > 0 {
		task = c.Log.Start("%s: %d to be ready", u.Name, len(u.Names))
	}
	return task.Done(c.Await(ctx, u.Names))
}

// removeOthers destroys units of the app that its directory no longer has.
func (c Cluster) removeOthers(ctx context.Context, a *App, have map[string]api.Unit, r *Result) error {
	var changes []api.Change
	for n := range have {
		if !slices.ContainsFunc(a.Units, func(u Unit) bool { return slices.Contains(u.Names, n) }) {
			changes = append(changes, api.Change{Name: n, Delete: true})
			r.Removed = append(r.Removed, n)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	slices.Sort(r.Removed)
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
			return "http://" + host + "/", nil
		}
	}
	return "", fmt.Errorf("the front unit %s is on no machine", a.Front.Unit)
}

const etcdTimeout = 30 * time.Second

// giveAccess makes the app's user in etcd and the certificate by which its
// containers are that user, unless it has one that is good for long enough.
func giveAccess(ctx context.Context, a *join.Access, app string) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	s, err := a.OpenStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
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
		if err := c.Await(ctx, names); err != nil {
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
