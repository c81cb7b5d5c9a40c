package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	novaservices "github.com/gophercloud/gophercloud/v2/openstack/compute/v2/services"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/endpoints"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	catalog "github.com/gophercloud/gophercloud/v2/openstack/identity/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/agents"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/external"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/provider"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"plasmid/test/lab/openstack/conf"
)

// setupVersion changes with what this file and inside.go put into the
// databases, so that labs set up before aren't used again.
const setupVersion = "1"

// cloud is the lab's APIs as its administrator sees them.
type cloud struct{ password string }

func (c *cloud) client(ctx context.Context) (*gophercloud.ProviderClient, gophercloud.EndpointOpts, error) {
	client, err := openstack.AuthenticatedClient(ctx, gophercloud.AuthOptions{
		IdentityEndpoint: "http://" + conf.IP + ":5000/v3",
		Username:         "admin", Password: c.password, TenantName: "admin", DomainID: "default",
	})
	return client, gophercloud.EndpointOpts{Region: conf.Region}, err
}

// heartbeats are when each service that has one was last heard of.
func (c *cloud) heartbeats(ctx context.Context) (map[string]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client, region, err := c.client(ctx)
	if err != nil {
		return nil, err
	}
	beats := map[string]time.Time{}
	// Either half may answer before the other does.
	if compute, err := openstack.NewComputeV2(client, region); err == nil {
		if pages, err := novaservices.List(compute, nil).AllPages(ctx); err == nil {
			all, err := novaservices.ExtractServices(pages)
			if err != nil {
				return nil, err
			}
			for _, s := range all {
				if s.State == "up" {
					beats[s.Binary] = s.UpdatedAt
				}
			}
		}
	}
	network, err := openstack.NewNetworkV2(client, region)
	if err != nil {
		return beats, nil
	}
	if pages, err := agents.List(network, nil).AllPages(ctx); err == nil {
		all, err := agents.ExtractAgents(pages)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if a.Alive {
				beats[a.Binary] = a.HeartbeatTimestamp
			}
		}
	}
	return beats, nil
}

// catalogue makes the services' users and endpoints, and a project with a
// user for those who use the lab.
func (c *cloud) catalogue(ctx context.Context) error {
	client, region, err := c.client(ctx)
	if err != nil {
		return err
	}
	identity, err := openstack.NewIdentityV3(client, region)
	if err != nil {
		return err
	}
	role := map[string]string{}
	pages, err := roles.List(identity, nil).AllPages(ctx)
	if err != nil {
		return err
	}
	known, err := roles.ExtractRoles(pages)
	if err != nil {
		return err
	}
	for _, r := range known {
		role[r.Name] = r.ID
	}
	for _, name := range []string{"service", "member"} {
		if role[name] == "" {
			r, err := roles.Create(ctx, identity, roles.CreateOpts{Name: name}).Extract()
			if err != nil {
				return err
			}
			role[name] = r.ID
		}
	}
	project := map[string]string{}
	for _, name := range []string{"service", conf.User} {
		p, err := projects.Create(ctx, identity, projects.CreateOpts{Name: name, DomainID: "default"}).Extract()
		if err != nil {
			return err
		}
		project[name] = p.ID
	}
	for _, u := range []struct {
		name, project string
		roles         []string
	}{
		{"glance", "service", []string{"admin", "service"}},
		{"nova", "service", []string{"admin", "service"}},
		{"neutron", "service", []string{"admin", "service"}},
		{"placement", "service", []string{"admin", "service"}},
		{conf.User, conf.User, []string{"member"}},
	} {
		user, err := users.Create(ctx, identity, users.CreateOpts{Name: u.name, Password: c.password, DomainID: "default"}).Extract()
		if err != nil {
			return err
		}
		for _, r := range u.roles {
			err := roles.Assign(ctx, identity, role[r], roles.AssignOpts{UserID: user.ID, ProjectID: project[u.project]}).ExtractErr()
			if err != nil {
				return err
			}
		}
	}
	for _, s := range []struct{ name, kind, path string }{
		{"glance", "image", ":9292"}, {"nova", "compute", ":8774/v2.1"},
		{"neutron", "network", ":9696"}, {"placement", "placement", ":8778"},
	} {
		service, err := catalog.Create(ctx, identity, catalog.CreateOpts{Type: s.kind, Extra: map[string]any{"name": s.name}}).Extract()
		if err != nil {
			return err
		}
		for _, a := range []gophercloud.Availability{gophercloud.AvailabilityPublic, gophercloud.AvailabilityInternal, gophercloud.AvailabilityAdmin} {
			_, err := endpoints.Create(ctx, identity, endpoints.CreateOpts{
				Availability: a, Name: s.name, Region: conf.Region, ServiceID: service.ID, URL: "http://" + conf.IP + s.path,
			}).Extract()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Names of what a fresh lab has.
const (
	externalNet = "ext-net"
	providerNet = "provider-net"
	tinyImage   = "tiny"
)

// seed makes what a cloud's operator would have made: networks to the
// outside, flavors, and an image that is enough for servers that do nothing.
func (c *cloud) seed(ctx context.Context) error {
	client, region, err := c.client(ctx)
	if err != nil {
		return err
	}
	network, err := openstack.NewNetworkV2(client, region)
	if err != nil {
		return err
	}
	yes, no := true, false
	for _, n := range []struct {
		name, physical, cidr, gateway, pool string
		external                            bool
	}{
		{externalNet, "external", conf.ExternalCIDR, conf.IP, conf.ExternalPool, true},
		{providerNet, "provider", conf.ProviderCIDR, conf.ProviderIP, conf.ProviderPool, false},
	} {
		shared := !n.external // floating addresses only, or ports for everyone
		var opts networks.CreateOptsBuilder = provider.CreateOptsExt{
			CreateOptsBuilder: networks.CreateOpts{Name: n.name, Shared: &shared},
			Segments:          []provider.Segment{{NetworkType: "flat", PhysicalNetwork: n.physical}},
		}
		if n.external {
			opts = external.CreateOptsExt{CreateOptsBuilder: opts, External: &yes}
		}
		made, err := networks.Create(ctx, network, opts).Extract()
		if err != nil {
			return fmt.Errorf("network %s: %w", n.name, err)
		}
		first, last, _ := strings.Cut(n.pool, "-")
		dhcp := &yes
		if n.external {
			dhcp = &no
		}
		_, err = subnets.Create(ctx, network, subnets.CreateOpts{
			NetworkID: made.ID, Name: n.name, CIDR: n.cidr, IPVersion: gophercloud.IPv4, GatewayIP: &n.gateway,
			EnableDHCP: dhcp, AllocationPools: []subnets.AllocationPool{{Start: first, End: last}},
		}).Extract()
		if err != nil {
			return fmt.Errorf("subnet %s: %w", n.name, err)
		}
	}
	compute, err := openstack.NewComputeV2(client, region)
	if err != nil {
		return err
	}
	for _, f := range []flavors.CreateOpts{
		{Name: "m1.tiny", RAM: 512, VCPUs: 1, Disk: new(4)},
		{Name: "m1.small", RAM: 1024, VCPUs: 1, Disk: new(8)},
		{Name: "m1.medium", RAM: 2048, VCPUs: 2, Disk: new(10)},
	} {
		if _, err := flavors.Create(ctx, compute, f).Extract(); err != nil {
			return fmt.Errorf("flavor %s: %w", f.Name, err)
		}
	}
	store, err := openstack.NewImageV2(client, region)
	if err != nil {
		return err
	}
	public := images.ImageVisibilityPublic
	image, err := images.Create(ctx, store, images.CreateOpts{
		Name: tinyImage, DiskFormat: "raw", ContainerFormat: "bare", Visibility: &public,
	}).Extract()
	if err != nil {
		return fmt.Errorf("image %s: %w", tinyImage, err)
	}
	if err := imagedata.Upload(ctx, store, image.ID, bytes.NewReader(make([]byte, 1<<20))).ExtractErr(); err != nil {
		return fmt.Errorf("image %s: %w", tinyImage, err)
	}
	return nil
}
