package openstack

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"

	"plasmid/provision/config"
	"plasmid/provision/plan"
)

const (
	serverTimeout = 15 * time.Minute // until a server is active
	volumeTimeout = 30 * time.Minute // until an image is copied to a volume
)

func asError[T error](err error, to *T) bool { return errors.As(err, to) }

func (p *Provider) nodeGroup(m plan.Machine) config.NodeGroup {
	g, _ := nodeGroup(p.cluster, m.Group)
	return g
}

// createFloatingIP gives a machine's port a floating address. There is one for
// each machine, found by its mark, so that trying again allocates no second.
func (p *Provider) createFloatingIP(ctx context.Context, st plan.Step) error {
	pl := p.planner()
	found, err := p.c.ports(ctx, p.mark(), st.Name)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("machine %s has no port; run plasmid up again", st.Name)
	}
	if pl.s.External == nil {
		return errors.New("no external network is known that floating addresses come from")
	}
	f, err := maker[floatingIP]{
		what: kindFloatingIP,
		find: func(ctx context.Context) ([]floatingIP, error) { return p.c.floatingIPs(ctx, p.cluster.Name, st.Name) },
		create: func(ctx context.Context) (floatingIP, error) {
			f, err := floatingips.Create(ctx, p.c.network, floatingips.CreateOpts{
				FloatingNetworkID: pl.s.External.ID, PortID: found[0].ID, Description: machineMark(p.cluster.Name, st.Name),
			}).Extract()
			if err != nil {
				return floatingIP{}, err
			}
			return floatingIP{object{f.ID, st.Name, f.CreatedAt}, f.FloatingIP, f.PortID}, nil
		},
		remove: func(ctx context.Context, f floatingIP) error {
			return floatingips.Delete(ctx, p.c.network, f.ID).ExtractErr()
		},
		id: func(f floatingIP) string { return f.ID },
	}.ensure(ctx)
	var e *apiError
	if asError(err, &e) && e.kind == "IpAddressGenerationFailure" {
		return fmt.Errorf("network %s has no floating address left: %w; free some, or set public_ipv4 = \"none\"", pl.s.External.Name, err)
	}
	if err != nil {
		return err
	}
	if f.Port != found[0].ID {
		if _, err := floatingips.Update(ctx, p.c.network, f.ID, floatingips.UpdateOpts{PortID: &found[0].ID}).Extract(); err != nil {
			return said(err)
		}
	}
	return p.tellAddress(ctx, st.Name, f.Address)
}

// tellAddress keeps a server's metadata true when its address changes.
func (p *Provider) tellAddress(ctx context.Context, name, address string) error {
	sv := p.planner().s.server(name)
	if sv == nil || sv.Meta[metaPublic] == address {
		return nil
	}
	_, err := servers.UpdateMetadata(ctx, p.c.compute, sv.ID, servers.MetadataOpts{metaPublic: address}).Extract()
	if isGone(err) {
		return nil
	}
	return said(err)
}

func (p *Provider) deleteFloatingIP(ctx context.Context, st plan.Step) error {
	list, err := p.c.floatingIPs(ctx, p.cluster.Name, st.Name)
	if err != nil {
		return err
	}
	for _, f := range list {
		if err := p.removeFloatingIP(ctx, f.ID); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) removeFloatingIP(ctx context.Context, id string) error {
	return untilGone(ctx, func(ctx context.Context) error { return floatingips.Delete(ctx, p.c.network, id).ExtractErr() }, nil)
}

// createVolume makes a machine's boot volume, and waits until the image is on
// it.
func (p *Provider) createVolume(ctx context.Context, st plan.Step) error {
	if p.c.volume == nil {
		return errors.New("the cloud has no block storage; leave boot_volume out")
	}
	ms := *st.Machine
	image, err := p.imageID(ctx, ms.Image)
	if err != nil {
		return err
	}
	own := func(ctx context.Context) ([]volume, error) {
		list, err := p.c.volumes(ctx, p.cluster.Name)
		return slices.DeleteFunc(list, func(v volume) bool { return v.Name != st.Name }), err
	}
	b := p.o.BootVolume
	v, err := maker[volume]{
		what: kindVolume,
		find: own,
		create: func(ctx context.Context) (volume, error) {
			v, err := volumes.Create(ctx, p.c.volume, volumes.CreateOpts{
				Name: st.Name, Description: p.mark(), Size: b.SizeGiB, VolumeType: b.Type, AvailabilityZone: b.AvailabilityZone, ImageID: image,
				Metadata: map[string]string{metaCluster: p.cluster.Name, metaImage: ms.Image, metaShape: ms.Shape},
			}, nil).Extract()
			if err != nil {
				return volume{}, err
			}
			return volume{object: object{v.ID, v.Name, v.CreatedAt}, Status: v.Status}, nil
		},
		remove: func(ctx context.Context, v volume) error {
			return volumes.Delete(ctx, p.c.volume, v.ID, nil).ExtractErr()
		},
		id: func(v volume) string { return v.ID },
	}.ensure(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, volumeTimeout, fmt.Errorf("volume %s is not ready after %v", st.Name, volumeTimeout))
	defer cancel()
	for {
		got, err := volumes.Get(ctx, p.c.volume, v.ID).Extract()
		if err != nil {
			return said(err)
		}
		switch got.Status {
		case "available", "in-use", "reserved":
			return nil
		case "error":
			return fmt.Errorf("making volume %s failed; the cloud gives no reason; try another type or availability_zone in boot_volume", st.Name)
		}
		if err := sleep(ctx, 2*pollEvery); err != nil {
			return context.Cause(ctx)
		}
	}
}

func (p *Provider) deleteVolume(ctx context.Context, st plan.Step) error {
	list, err := p.c.volumes(ctx, p.cluster.Name)
	if err != nil {
		return err
	}
	for _, v := range list {
		if v.Name == st.Name {
			if err := p.removeVolume(ctx, v.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Provider) removeVolume(ctx context.Context, id string) error {
	return untilGone(ctx,
		func(ctx context.Context) error { return volumes.Delete(ctx, p.c.volume, id, nil).ExtractErr() },
		func(ctx context.Context) error {
			for {
				v, err := volumes.Get(ctx, p.c.volume, id).Extract()
				if err != nil {
					return err
				}
				if v.Status == "error_deleting" {
					return fmt.Errorf("the block storage can't delete volume %s; its operators must", id)
				}
				if err := sleep(ctx, pollEvery); err != nil {
					return err
				}
			}
		})
}

// imageID finds the image in Glance: the one that the cluster file names, or
// the one that plasmid image push made.
func (p *Provider) imageID(ctx context.Context, image string) (string, error) {
	return p.images.get(image, func() (string, error) {
		i, f, err := p.findImage(ctx, image)
		if err != nil {
			return "", err
		}
		if f != nil {
			return "", fmt.Errorf("%s. %s", f.Problem, f.Remedy)
		}
		return i.ID, nil
	})
}

// findImage is the client's, with the remedy that fits the cluster file.
func (p *Provider) findImage(ctx context.Context, image string) (*images.Image, *Finding, error) {
	i, f, err := p.c.findImage(ctx, p.o.Image, image)
	if f != nil && p.o.Image == "" && p.cluster.Image.Cloud != nil {
		f.Remedy = "Build it there: plasmid image build"
	}
	return i, f, err
}

func (p *Provider) flavorID(ctx context.Context, name string) (string, error) {
	return p.flavors.get(name, func() (string, error) {
		list, err := all(ctx, flavors.ListDetail(p.c.compute, nil), flavors.ExtractFlavors)
		if err != nil {
			return "", err
		}
		fl, f := pick(list, "flavor", name, func(f flavors.Flavor) (string, string) { return f.ID, f.Name })
		if f != nil {
			return "", fmt.Errorf("%s. %s", f.Problem, f.Remedy)
		}
		return fl.ID, nil
	})
}

// findImage looks an image up by name or ID, or, if name is empty, by the
// identity that push gave it.
func (c *Client) findImage(ctx context.Context, name, identity string) (*images.Image, *Finding, error) {
	if name == "" {
		list, err := c.pushed(ctx, identity)
		if err != nil {
			return nil, nil, err
		}
		for i := range list {
			if list[i].Status == images.ImageStatusActive {
				return &list[i], nil, nil
			}
		}
		return nil, &Finding{fmt.Sprintf("image %s is not in the cloud", identity), "Upload it: plasmid image push"}, nil
	}
	list, err := all(ctx, images.List(c.image, images.ListOpts{}), images.ExtractImages)
	if err != nil {
		return nil, nil, err
	}
	i, f := pick(list, "image", name, func(i images.Image) (string, string) { return i.ID, i.Name })
	if f == nil && i.Status != images.ImageStatusActive {
		f = &Finding{fmt.Sprintf("image %s is %s", name, i.Status), "Wait until it is active, or name another: openstack image list"}
	}
	return i, f, nil
}

// createServer makes a machine's server and waits until it is active. One that
// failed, or has lost its port, is made anew.
func (p *Provider) createServer(ctx context.Context, st plan.Step) error {
	m := *st.Machine
	opts, hints, err := p.serverOpts(ctx, m)
	if err != nil {
		return err
	}
	private := opts.Networks.([]servers.Network)[0].Port
	sv, err := maker[server]{
		what: "server",
		find: func(ctx context.Context) ([]server, error) {
			list, err := p.c.servers(ctx, p.cluster.Name, m.Name)
			if err != nil {
				return nil, err
			}
			plugged := ""
			if found, err := p.c.ports(ctx, p.mark(), m.Name); err != nil {
				return nil, err
			} else if len(found) > 0 && found[0].ID == private {
				plugged = found[0].Server
			}
			var out []server
			for _, sv := range list {
				old := sv.Meta[metaImage] != m.Image || sv.Meta[metaShape] != m.Shape
				// Nova plugs a new server in some time after it said yes.
				unplugged := sv.Status != "BUILD" && sv.ID != plugged
				if sv.Status == "ERROR" || old || unplugged {
					if err := p.removeServer(ctx, sv.ID); err != nil {
						return nil, err
					}
					continue
				}
				out = append(out, sv)
			}
			return out, nil
		},
		create: func(ctx context.Context) (server, error) {
			var b servers.CreateOptsBuilder = opts
			if p.o.KeyPair != "" {
				b = keypairs.CreateOptsExt{CreateOptsBuilder: opts, KeyName: p.o.KeyPair}
			}
			sv, err := servers.Create(ctx, p.c.compute, b, hints).Extract()
			if err != nil {
				return server{}, err
			}
			return server{object: object{ID: sv.ID, Name: m.Name, Created: time.Now()}}, nil
		},
		remove: func(ctx context.Context, sv server) error { return p.removeServer(ctx, sv.ID) },
		id:     func(sv server) string { return sv.ID },
	}.ensure(ctx)
	if err != nil {
		return err
	}
	if sv.Status != "" && sv.Status != "BUILD" && !slices.Contains(runningStates, sv.Status) {
		return p.startServer(ctx, st)
	}
	return p.waitActive(ctx, sv.ID, m.Name)
}

// waitActive waits for a server to run.
func (p *Provider) waitActive(ctx context.Context, id, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, serverTimeout, fmt.Errorf("server %s is not active after %v; look at: openstack server show %s", name, serverTimeout, id))
	defer cancel()
	return p.poll.byID(ctx, id, func(sv *server) (bool, error) {
		switch {
		case sv == nil:
			return false, fmt.Errorf("server %s vanished while it was made; somebody deleted it", name)
		case sv.Status == "ERROR":
			why := cmp.Or(strings.TrimSuffix(sv.Fault, "."), "it gives no reason")
			return false, fmt.Errorf("the cloud can't run server %s: %s; plasmid up tries again, plasmid down removes what was made", name, why)
		}
		return slices.Contains(runningStates, sv.Status), nil
	})
}

// serverOpts say all of a server.
func (p *Provider) serverOpts(ctx context.Context, m plan.Machine) (servers.CreateOpts, servers.SchedulerHintOptsBuilder, error) {
	var opts servers.CreateOpts
	g := p.nodeGroup(m)
	flavor := g.Flavor
	if flavor == "" {
		flavor = p.o.Flavor
	}
	flavorID, err := p.flavorID(ctx, flavor)
	if err != nil {
		return opts, nil, err
	}
	nics, private, public, err := p.nics(ctx, m.Name, g)
	if err != nil {
		return opts, nil, err
	}
	data := p.userData(privateNIC(p.o, g, private))
	yes := true
	opts = servers.CreateOpts{
		Name: m.Name, FlavorRef: flavorID, Networks: nics, ConfigDrive: &yes, AvailabilityZone: p.zone(m.Name),
		// gophercloud takes what looks like base64 for it, so it gets base64.
		UserData: []byte(base64.StdEncoding.EncodeToString(data)),
		Metadata: map[string]string{
			metaCluster: p.cluster.Name, metaGroup: m.Group, metaImage: m.Image, metaShape: m.Shape, metaPrivate: private.Address,
		},
	}
	if public != "" {
		opts.Metadata[metaPublic] = public
	}
	if p.o.BootVolume != nil {
		list, err := p.c.volumes(ctx, p.cluster.Name)
		if err != nil {
			return opts, nil, err
		}
		i := slices.IndexFunc(list, func(v volume) bool { return v.Name == m.Name })
		if i < 0 {
			return opts, nil, fmt.Errorf("machine %s has no boot volume; run plasmid up again", m.Name)
		}
		// The volume is ours to delete: Nova forgets those of servers that failed.
		opts.BlockDevice = []servers.BlockDevice{{SourceType: servers.SourceVolume, DestinationType: servers.DestinationVolume, UUID: list[i].ID, BootIndex: 0}}
	} else if opts.ImageRef, err = p.imageID(ctx, m.Image); err != nil {
		return opts, nil, err
	}
	if gs := p.planner().s.ServerGroups; p.o.AntiAffinity != "" && len(gs) > 0 {
		return opts, servers.SchedulerHintOpts{Group: gs[0].ID}, nil
	}
	return opts, nil, nil
}

// nics are the ports that a machine is plugged into, the private one first, and
// its public address, if it has one.
func (p *Provider) nics(ctx context.Context, name string, g config.NodeGroup) ([]servers.Network, port, string, error) {
	private, err := p.c.ports(ctx, p.mark(), name)
	if err != nil {
		return nil, port{}, "", err
	}
	if len(private) == 0 {
		return nil, port{}, "", fmt.Errorf("machine %s has no port; run plasmid up again", name)
	}
	nics := []servers.Network{{Port: private[0].ID}}
	switch {
	case p.o.TwoNICs(g):
		public, err := p.c.ports(ctx, p.mark(), publicPort(name))
		if err != nil {
			return nil, port{}, "", err
		}
		if len(public) == 0 {
			return nil, port{}, "", fmt.Errorf("machine %s has no public port; run plasmid up again", name)
		}
		return append(nics, servers.Network{Port: public[0].ID}), private[0], public[0].Address, nil
	case g.PublicIPv4 == "direct":
		return nics, private[0], private[0].Address, nil
	case g.PublicIPv4 == "floating":
		list, err := p.c.floatingIPs(ctx, p.cluster.Name, name)
		if err != nil {
			return nil, port{}, "", err
		}
		if len(list) > 0 {
			return nics, private[0], list[0].Address, nil
		}
	}
	return nics, private[0], "", nil
}

// startServer gives a machine its power back, in whatever way it was taken.
func (p *Provider) startServer(ctx context.Context, st plan.Step) error {
	list, err := p.c.servers(ctx, p.cluster.Name, st.Name)
	if err != nil {
		return err
	}
	sv := first(list, st.Name, serverObject)
	if sv == nil {
		return fmt.Errorf("server %s is gone; run plasmid up again", st.Name)
	}
	switch sv.Status {
	case "SHUTOFF", "STOPPED":
		err = servers.Start(ctx, p.c.compute, sv.ID).ExtractErr()
	case "PAUSED":
		err = servers.Unpause(ctx, p.c.compute, sv.ID).ExtractErr()
	case "SUSPENDED":
		err = servers.Resume(ctx, p.c.compute, sv.ID).ExtractErr()
	case "SHELVED", "SHELVED_OFFLOADED":
		err = servers.Unshelve(ctx, p.c.compute, sv.ID, servers.UnshelveOpts{}).ExtractErr()
	case "RESCUE":
		return fmt.Errorf("server %s is in rescue mode, by somebody's hand; end that first: openstack server unrescue %s", st.Name, sv.ID)
	}
	if err != nil && !hasCode(err, 409) { // 409: it is being done
		return said(err)
	}
	return p.waitActive(ctx, sv.ID, st.Name)
}

func (p *Provider) deleteServer(ctx context.Context, st plan.Step) error {
	list, err := p.c.servers(ctx, p.cluster.Name, st.Name)
	if err != nil {
		return err
	}
	for _, sv := range list {
		if err := p.removeServer(ctx, sv.ID); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) removeServer(ctx context.Context, id string) error {
	return untilGone(ctx,
		func(ctx context.Context) error { return servers.Delete(ctx, p.c.compute, id).ExtractErr() },
		func(ctx context.Context) error {
			return p.poll.byID(ctx, id, func(sv *server) (bool, error) { return sv == nil, nil })
		})
}
