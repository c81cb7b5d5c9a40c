package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"plasmid/image"
	"plasmid/provision"
	"plasmid/provision/config"
	"plasmid/provision/join"
	"plasmid/provision/plan"
	"plasmid/runtime/node"
)

// cluster is a cluster as commands that change it see it.
type cluster struct {
	config   *config.Cluster
	access   *join.Access
	provider provision.Provider
	joiner   *join.Joiner
}

// cluster loads the cluster file and what belongs to it. With create it makes
// the operator's keys if there are none.
func (g *globals) cluster(ctx context.Context, create bool) (*cluster, error) {
	cfg, err := g.Config()
	if err != nil {
		return nil, err
	}
	c := &cluster{config: cfg}
	dir := g.accessDir(cfg.Name)
	if create {
		c.access, err = join.CreateAccess(dir, cfg.Name)
	} else if c.access, err = join.LoadAccess(dir); errors.Is(err, join.ErrNoAccess) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if c.provider, err = g.provider(ctx, cfg, c.access); err != nil {
		return nil, err
	}
	c.joiner = &join.Joiner{Access: c.access, Cluster: cfg.Name, Lease: cfg.Lease, Reboot: reboots(cfg), Machines: c.provider, Gates: cfg.Provider.OpenStack != nil}
	return c, nil
}

// reboots says for each node group how its machines reboot.
func reboots(cfg *config.Cluster) map[string]*node.Reboot {
	m := map[string]*node.Reboot{}
	for _, g := range cfg.Nodes {
		if r := g.Reboot; r != nil {
			m[g.Name] = &node.Reboot{
				Group: r.Group, Max: r.Max, Window: r.Window, LengthSeconds: int(r.Length / time.Second),
				DrainSeconds: int(r.Drain / time.Second), PatienceSeconds: int(r.Patience / time.Second),
			}
		}
	}
	return m
}

// observe gathers what plans are made of.
func (c *cluster) observe(ctx context.Context, imageID string) (plan.Input, error) {
	in := plan.Input{Cluster: c.config.Name, Wanted: provision.Wanted(c.config, imageID)}
	c.joiner.Wanted = in.Wanted
	var err error
	if in.Network, in.Observed, err = c.provider.Observe(ctx); err != nil {
		return in, err
	}
	if c.access != nil {
		in.Members, err = c.joiner.Members(ctx)
	}
	return in, err
}

// plan is how the cluster becomes what is wanted, and what that uses of the
// provider. The error may be of Preflight; the plan can be shown all the same.
func (c *cluster) plan(ctx context.Context, in plan.Input) (p plan.Plan, uses []string, err error) {
	if p, err = plan.Make(in); err != nil {
		return p, nil, err
	}
	p = c.refine(in, p)
	if k, ok := c.provider.(provision.Checker); ok && !p.Empty() {
		uses, err = k.Preflight(ctx, p)
	}
	return p, uses, err
}

// refine puts the provider's own steps into a plan.
func (c *cluster) refine(in plan.Input, p plan.Plan) plan.Plan {
	if r, ok := c.provider.(provision.Refiner); ok {
		return r.Refine(in, p)
	}
	return p
}

// do carries out any step.
func (c *cluster) do(ctx context.Context, s plan.Step) error {
	if s.Kind == plan.KindMember {
		return c.joiner.Do(ctx, s)
	}
	return c.provider.Do(ctx, s)
}

// image is the image that the cluster's machines are to run.
func (c *cluster) image(g *globals) (string, error) { return g.wantedImage(c.config) }

// wantedImage is the one that was built last for the cluster file, or the one
// in the cloud that it names.
func (g *globals) wantedImage(cfg *config.Cluster) (string, error) {
	if o := cfg.Provider.OpenStack; o != nil && o.Image != "" {
		return o.Image, nil
	}
	i, err := image.For(g.imageOptions(cfg))
	if err != nil {
		return "", err
	}
	return i.ID, nil
}

var marks = map[plan.Action]string{plan.Create: "+", plan.Delete: "-", plan.Update: "~", plan.Start: "~"}

// printPlan shows the steps in their order, and what they use.
func printPlan(w io.Writer, p plan.Plan, uses []string) {
	for _, s := range p.Steps {
		line := fmt.Sprintf("  %s %s", marks[s.Action], s.Title())
		if len(s.Details) > 0 {
			line += "  (" + strings.Join(s.Details, ", ") + ")"
		}
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w, p.Summary())
	if len(uses) > 0 {
		fmt.Fprintf(w, "Of the project's quota it takes:\n  %s\n", strings.Join(uses, "\n  "))
	}
}

// confirm asks before anything is changed.
func (g *globals) confirm(question string) error {
	if g.Yes {
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return errors.New("nobody can be asked here; say yes beforehand with --yes")
	}
	fmt.Fprintf(os.Stderr, "%s [y/N] ", question)
	var answer string
	if _, err := fmt.Scanln(&answer); err != nil || !strings.HasPrefix(strings.ToLower(answer), "y") {
		return errors.New("nothing was changed")
	}
	return nil
}

// forget removes the operator's side of a cluster that is gone.
func (g *globals) forget(name string) error {
	dir := filepath.Join(g.StateDir(), "clusters")
	return errors.Join(os.RemoveAll(filepath.Join(dir, name)), os.Remove(filepath.Join(dir, "."+name+".lock")))
}
