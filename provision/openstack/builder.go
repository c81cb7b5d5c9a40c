package openstack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"golang.org/x/crypto/ssh"

	"plasmid/image"
	"plasmid/internal/progress"
	"plasmid/provision"
	"plasmid/provision/config"
	"plasmid/provision/plan"
)

const (
	// propertyBuild is on a snapshot until it is an image: the mark of whose
	// build it is.
	propertyBuild = "plasmid_build"
	// offTimeout is how long a server may take to power itself off before it
	// is told to.
	offTimeout = 2 * time.Minute
	// snapshotTimeout is for copying a disk to Glance.
	snapshotTimeout = time.Hour
	// buildGroup is the node group of the build's only machine.
	buildGroup = "image"
)

// Builder makes an image of a cluster's on a server. To the provider that is a
// cluster of its own with one machine, so that all is made, found again and
// removed in the same ways.
type Builder struct {
	p   *Provider
	log *progress.Log
}

// NewBuilder returns one for the image block of a cluster. Builds of different
// owners do not meet: owner names the operator's state directory.
func NewBuilder(c *Client, cl *config.Cluster, owner string, log *progress.Log) *Builder {
	return &Builder{p: New(c, buildCluster(cl, owner), nil), log: log}
}

// buildCluster is the cluster that a build makes. Its name is none that a
// cluster file may have.
func buildCluster(cl *config.Cluster, owner string) *config.Cluster {
	o := *cl.Provider.OpenStack
	o.Image, o.Flavor = cl.Image.Cloud.Source, cmp.Or(cl.Image.Cloud.Flavor, o.Flavor)
	// A snapshot of a volume is no image that can be shared or looked into.
	o.BootVolume, o.AntiAffinity, o.KeyPair, o.PublicPorts, o.AllowedAddresses = nil, "", "", nil, nil
	g := config.NodeGroup{Name: buildGroup, Count: 1, PublicIPv4: "none"}
	for _, mode := range []string{"direct", "floating"} {
		if slices.ContainsFunc(cl.Nodes, func(n config.NodeGroup) bool { return n.PublicIPv4 == mode }) {
			g.PublicIPv4 = mode
		}
	}
	switch {
	case g.PublicIPv4 == "direct" && o.Network.Made() && o.ExternalNetwork != "":
		// One NIC will do.
		o.Network = config.Network{Name: o.ExternalNetwork}
		o.Router, o.DNS = "", nil
	case o.Router != "":
		// The cluster's own network may be on the same router.
		o.Network.CIDR = buildNetwork(o.Network.CIDR)
	}
	return &config.Cluster{Name: cl.Name + "+image-" + owner, Provider: config.Provider{OpenStack: &o}, Image: cl.Image, Nodes: []config.NodeGroup{g}}
}

// buildNetwork is one that does not overlap the cluster's.
func buildNetwork(cluster string) string {
	const first, second = "192.168.254.0/27", "172.30.254.0/27"
	if p, err := netip.ParsePrefix(cluster); err == nil && p.Overlaps(netip.MustParsePrefix(first)) {
		return second
	}
	return first
}

// machine is the build's only one.
func (b *Builder) machine() plan.Machine {
	c := b.p.cluster
	name, _, _ := strings.Cut(c.Name, "+")
	return plan.Machine{Name: name + "-" + buildGroup + "-1", Group: buildGroup, Image: b.p.o.Image, Shape: c.Shape(c.Nodes[0]), PublicIPv4: c.Nodes[0].PublicIPv4}
}

// Source finds the image that is begun with.
func (b *Builder) Source(ctx context.Context) (image.Source, error) {
	i, f, err := b.p.c.findImage(ctx, b.p.o.Image, "")
	if err != nil {
		return image.Source{}, err
	}
	if f != nil {
		return image.Source{}, fmt.Errorf("source in the image block: %s. %s", f.Problem, f.Remedy)
	}
	sum, _ := i.Properties["os_hash_value"].(string)
	return image.Source{ID: i.ID, Name: i.Name, Checksum: cmp.Or(sum, i.Checksum)}, nil
}

// Find reports whether there is an image of the identity.
func (b *Builder) Find(ctx context.Context, identity string) (bool, error) {
	list, err := b.p.c.pushed(ctx, identity)
	return slices.ContainsFunc(list, func(i images.Image) bool { return i.Status == images.ImageStatusActive }), err
}

// Boot makes the server and what it needs, and waits until it shows its host
// key.
func (b *Builder) Boot(ctx context.Context, user, key string) (string, ssh.PublicKey, error) {
	p, m := b.p, b.machine()
	p.userData = func(string) []byte { return buildUserData(user, key) }
	if _, _, err := p.Observe(ctx); err != nil {
		return "", nil, err
	}
	pl := plan.Plan{Steps: []plan.Step{{ID: plan.StepID(plan.Create, plan.KindMachine, m.Name), Action: plan.Create, Kind: plan.KindMachine, Name: m.Name, Machine: &m}}}
	pl = p.Refine(plan.Input{Cluster: p.cluster.Name, Wanted: []plan.Machine{m}}, pl)
	if _, err := p.Preflight(ctx, pl); err != nil {
		return "", nil, err
	}
	if err := provision.Apply(ctx, pl, p.Do, b.log); err != nil {
		return "", nil, err
	}
	_, machines, err := p.Observe(ctx)
	if err != nil {
		return "", nil, err
	}
	if len(machines) != 1 {
		return "", nil, fmt.Errorf("the build has %d servers, not one; somebody interferes", len(machines))
	}
	t := b.log.Start("host key of %s", m.Name)
	host, err := p.HostKey(ctx, m.Name)
	if t.Done(err) != nil {
		return "", nil, err
	}
	return net.JoinHostPort(cmp.Or(machines[0].PublicIPv4, machines[0].PrivateIPv4), "22"), host, nil
}

// buildUserData makes the user of a build, and none of the source image's own.
func buildUserData(user, key string) []byte {
	data, err := json.MarshalIndent(map[string]any{"users": []any{map[string]any{
		"name": user, "shell": "/bin/sh", "lock_passwd": true, "sudo": "ALL=(ALL) NOPASSWD:ALL", "ssh_authorized_keys": []string{key},
	}}}, "", "  ")
	if err != nil {
		panic("openstack: " + err.Error()) // strings can always be encoded
	}
	return append([]byte("#cloud-config\n"), append(data, '\n')...)
}

// Snapshot makes an image of the server when it is off. Nobody finds it as one
// before it is whole: then it gets its tags.
func (b *Builder) Snapshot(ctx context.Context, identity, suite string) error {
	p := b.p
	list, err := p.c.servers(ctx, p.cluster.Name, b.machine().Name)
	if err != nil {
		return err
	}
	sv := first(list, b.machine().Name, serverObject)
	if sv == nil {
		return errors.New("the server of the build is gone; somebody deleted it")
	}
	if err := b.awaitOff(ctx, sv.ID); err != nil {
		return err
	}
	made, err := maker[images.Image]{
		what: "snapshot",
		find: b.snapshots,
		create: func(ctx context.Context) (images.Image, error) {
			id, err := servers.CreateImage(ctx, p.c.compute, sv.ID, servers.CreateImageOpts{
				Name: "plasmid-" + identity, Metadata: map[string]string{propertyBuild: p.cluster.Name},
			}).ExtractImageID()
			return images.Image{ID: id}, err
		},
		remove: b.removeImage,
		id:     func(i images.Image) string { return i.ID },
	}.ensure(ctx)
	if err != nil {
		return err
	}
	img, err := b.awaitSnapshot(ctx, made.ID)
	if err != nil {
		return err
	}
	if _, err := images.Update(ctx, p.c.image, img.ID, asPushed(img, identity, suite)).Extract(); err != nil {
		return fmt.Errorf("naming image %s: %w", img.ID, said(err))
	}
	return nil
}

// asPushed gives a snapshot what Push gives an image, and takes the mark of the
// build away. What it says of hardware stays as it is: it comes from the source,
// and the server booted with it.
func asPushed(img *images.Image, identity, suite string) images.UpdateOpts {
	out := images.UpdateOpts{images.UpdateImageProperty{Op: images.RemoveOp, Name: propertyBuild}}
	want := properties(identity, suite)
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if strings.HasPrefix(k, "hw_") {
			continue
		}
		op := images.AddOp
		if _, there := img.Properties[k]; there {
			op = images.ReplaceOp
		}
		out = append(out, images.UpdateImageProperty{Op: op, Name: k, Value: want[k]})
	}
	if img.MinRAMMegabytes < minRAM {
		out = append(out, images.ReplaceImageMinRam{NewMinRam: minRAM})
	}
	return append(out, images.ReplaceImageTags{NewTags: tags(identity)})
}

// awaitOff waits until a server is off; one that does not do it by itself is
// told to.
func (b *Builder) awaitOff(ctx context.Context, id string) error {
	t := b.log.Start("power off")
	off := func(d time.Duration) error {
		ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("the server of the build is not off after %v", d))
		defer cancel()
		return b.p.poll.byID(ctx, id, func(sv *server) (bool, error) {
			if sv == nil {
				return false, errors.New("the server of the build vanished; somebody deleted it")
			}
			return sv.Status == "SHUTOFF", nil
		})
	}
	err := off(offTimeout)
	if err != nil && ctx.Err() == nil {
		if err = servers.Stop(ctx, b.p.c.compute, id).ExtractErr(); err == nil || hasCode(err, 409) { // 409: it is being done
			err = off(offTimeout)
		}
	}
	return t.Done(said(err))
}

// awaitSnapshot waits until Glance has all of it.
func (b *Builder) awaitSnapshot(ctx context.Context, id string) (*images.Image, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotTimeout, fmt.Errorf("the snapshot is not active after %v", snapshotTimeout))
	defer cancel()
	for {
		img, err := images.Get(ctx, b.p.c.image, id).Extract()
		if isGone(err) {
			return nil, errors.New("Nova gave the snapshot up and removed it; its operators' logs say why")
		}
		if err != nil {
			return nil, said(err)
		}
		switch img.Status {
		case images.ImageStatusActive:
			return img, nil
		case images.ImageStatusKilled, images.ImageStatusDeleted, images.ImageStatusPendingDelete:
			return nil, fmt.Errorf("Glance gave the snapshot up: it is %s", img.Status)
		}
		if err := sleep(ctx, 2*pollEvery); err != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// snapshots are those of builds that have not become images.
func (b *Builder) snapshots(ctx context.Context) ([]images.Image, error) {
	list, err := all(ctx, images.List(b.p.c.image, images.ListOpts{Owner: b.p.c.project}), images.ExtractImages)
	return slices.DeleteFunc(list, func(i images.Image) bool {
		mark, _ := i.Properties[propertyBuild].(string)
		return mark != b.p.cluster.Name || b.p.c.project != "" && i.Owner != b.p.c.project
	}), err
}

func (b *Builder) removeImage(ctx context.Context, i images.Image) error {
	return untilGone(ctx, func(ctx context.Context) error { return images.Delete(ctx, b.p.c.image, i.ID).ExtractErr() }, nil)
}

// Clear removes the server, all that was made for it, and snapshots that did
// not become images.
func (b *Builder) Clear(ctx context.Context) error {
	p := b.p
	_, machines, err := p.Observe(ctx)
	if err != nil {
		return err
	}
	left, err := p.Sweep(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		in := plan.Input{Cluster: p.cluster.Name, Network: true, Observed: machines}
		if err := provision.Apply(ctx, p.Refine(in, plan.Destroy(in)), p.Do, b.log); err != nil {
			return err
		}
		if left, err = p.Sweep(ctx); err != nil {
			return err
		}
		if len(left) > 0 {
			return fmt.Errorf("this is left: %s", strings.Join(left, ", "))
		}
	}
	list, err := b.snapshots(ctx)
	if err != nil {
		return err
	}
	for _, i := range list {
		t := b.log.Start("delete snapshot %s", i.ID)
		if err := t.Done(b.removeImage(ctx, i)); err != nil {
			return err
		}
	}
	return nil
}
