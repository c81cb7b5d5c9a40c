package openstack

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"plasmid/provision/config"
	"plasmid/provision/plan"
)

// Provider makes the machines of one cluster. Observe comes first: steps build
// upon what it saw.
type Provider struct {
	cluster *config.Cluster
	o       *config.OpenStack
	c       *Client

	mu      sync.Mutex
	state   *state // as last seen, and as steps changed what machines share
	changes int    // that steps made to state

	// userData is what machines are told; private, if not empty, is the MAC
	// address of a NIC that must not become the way out.
	userData func(private string) []byte

	poll    *poller
	flavors known // IDs by name
	images  known // IDs in Glance by image
}

// New returns a provider. sshKeys are the authorized_keys lines of the login
// user.
func New(c *Client, cluster *config.Cluster, sshKeys []string) *Provider {
	return &Provider{
		cluster: cluster, o: cluster.Provider.OpenStack, c: c, state: &state{},
		userData: func(private string) []byte { return userData(sshKeys, private) },
		poll:     newPoller(func(ctx context.Context) ([]server, error) { return c.servers(ctx, cluster.Name, "") }),
	}
}

func (p *Provider) mark() string { return mark(p.cluster.Name) }

func (p *Provider) planner() planner {
	p.mu.Lock()
	defer p.mu.Unlock()
	return planner{p.cluster, p.o, p.state}
}

// Observe finds all that carries the cluster's mark. The network counts as
// there if all that machines share is as wanted.
func (p *Provider) Observe(ctx context.Context) (bool, []plan.Observed, error) {
	p.mu.Lock()
	before := p.changes
	p.mu.Unlock()
	s, err := p.c.observe(ctx, p.cluster)
	if err != nil {
		return false, nil, err
	}
	p.mu.Lock()
	if p.changes == before { // else a step knows better than lists that began before it
		p.state = s
	}
	p.mu.Unlock()
	return len(planner{p.cluster, p.o, s}.shared()) == 0, observed(p.cluster, s), nil
}

// Refine puts the provider's own small steps into a plan.
func (p *Provider) Refine(in plan.Input, pl plan.Plan) plan.Plan { return p.planner().refine(in, pl) }

// Sweep lists all that carries the cluster's mark.
func (p *Provider) Sweep(ctx context.Context) ([]string, error) {
	s, err := p.c.observe(ctx, p.cluster)
	if err != nil {
		return nil, err
	}
	var left []string
	add := func(kind string, list []object) {
		for _, o := range list {
			left = append(left, fmt.Sprintf("%s %s (%s)", kind, o.Name, o.ID))
		}
	}
	add("server", objects(s.Servers, serverObject))
	add(kindFloatingIP+" of", objects(s.FloatingIPs, floatingObject))
	add(kindPort, objects(s.Ports, portObject))
	add(kindVolume, objects(s.Volumes, volumeObject))
	for _, l := range s.Links {
		left = append(left, fmt.Sprintf("interface of router %s (port %s)", l.Router, l.Port))
	}
	add(kindRouter, objects(s.Routers, func(r router) object { return r.object }))
	add(kindSubnet, objects(s.Subnets, func(n subnet) object { return n.object }))
	add("network", objects(s.Networks, func(n network) object { return n.object }))
	add(kindSecurityGroup, objects(s.Groups, func(g securityGroup) object { return g.object }))
	add(kindServerGroup, objects(s.ServerGroups, func(g serverGroup) object { return g.object }))
	return left, nil
}

// zone spreads the machines of a group over the availability zones, by their
// numbers. Empty: the cloud chooses.
func (p *Provider) zone(machine string) string {
	zones := p.o.AvailabilityZones
	var n int
	if _, err := fmt.Sscanf(machine[strings.LastIndexByte(machine, '-')+1:], "%d", &n); err != nil || n < 1 || len(zones) == 0 {
		return ""
	}
	return zones[(n-1)%len(zones)]
}

// known remembers IDs that were looked up.
type known struct {
	mu  sync.Mutex
	ids map[string]string
}

func (k *known) get(key string, find func() (string, error)) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if id, ok := k.ids[key]; ok {
		return id, nil
	}
	id, err := find()
	if err != nil {
		return "", err
	}
	if k.ids == nil {
		k.ids = map[string]string{}
	}
	k.ids[key] = id
	return id, nil
}

// poller lets all who wait for servers share one list: fifty machines cost no
// more calls than one.
type poller struct {
	list func(context.Context) ([]server, error)

	turn       chan struct{} // holds a value while somebody uses what follows
	began, end time.Time     // of the last list
	last       []server
}

func newPoller(list func(context.Context) ([]server, error)) *poller {
	return &poller{list: list, turn: make(chan struct{}, 1)}
}

// servers returns a list that was begun after a time. A cloud that needs long
// for a list is asked for fewer.
func (p *poller) servers(ctx context.Context, after time.Time) ([]server, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if p.began.After(after) {
		return p.last, nil
	}
	rest := max(pollEvery, 3*p.end.Sub(p.began))
	if err := sleep(ctx, time.Until(p.end.Add(rest))); err != nil {
		return nil, context.Cause(ctx)
	}
	began := time.Now()
	list, err := p.list(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	p.began, p.end, p.last = began, time.Now(), list
	return list, nil
}

// byID waits until f is content with a server, which is nil when there is none.
func (p *poller) byID(ctx context.Context, id string, f func(*server) (bool, error)) error {
	for {
		list, err := p.servers(ctx, time.Now())
		if err != nil {
			return err
		}
		var sv *server
		if i := slices.IndexFunc(list, func(s server) bool { return s.ID == id }); i >= 0 {
			sv = &list[i]
		}
		if done, err := f(sv); done || err != nil {
			return err
		}
	}
}
