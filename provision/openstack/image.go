package openstack

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/members"

	"plasmid/internal/progress"
)

const (
	// tagPlasmid is on every image that was pushed; another tag has its identity.
	tagPlasmid    = "plasmid-image"
	propertyImage = "plasmid_image"
	// minRAM is what a machine of an image of ours needs to run at all, in MiB.
	minRAM = 512
	// uploadStall is how long an upload may stand still.
	uploadStall = 2 * time.Minute
	// abandoned is the age at which an image that is not complete is of an
	// upload that was cut off.
	abandoned     = 6 * time.Hour
	settleTimeout = 10 * time.Minute // of Glance, after the upload
)

// tags are those by which an image of ours is found.
func tags(identity string) []string { return []string{tagPlasmid, tagIdentity(identity)} }

// properties of an image say what it is and what its machines need.
func properties(identity, suite string) map[string]string {
	return map[string]string{
		propertyImage: identity, "os_type": "linux", "os_distro": "debian", "os_version": suite,
		"hw_disk_bus": "virtio", "hw_vif_model": "virtio", "hw_rng_model": "virtio", "hw_serial_port_count": "1",
	}
}

func tagIdentity(identity string) string { return tagPlasmid + "=" + identity }

// pushed lists the images in Glance that have an identity, the newest first;
// empty: all of Plasmid's.
func (c *Client) pushed(ctx context.Context, identity string) ([]images.Image, error) {
	tag := tagPlasmid
	if identity != "" {
		tag = tagIdentity(identity)
	}
	return all(ctx, images.List(c.image, images.ListOpts{Tags: []string{tag}, Sort: "created_at:desc"}), images.ExtractImages)
}

// Upload is an image for Glance.
type Upload struct {
	Identity   string // of the image
	File       string // a qcow2
	Suite      string // of Debian
	VirtualGiB int
	Visibility string   // private, shared, community, public; empty: private, or shared if there is Share
	Share      []string // IDs of projects that may use it
}

// Pushed is an image in Glance.
type Pushed struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Identity string    `json:"image"`
	Status   string    `json:"status"`
	Bytes    int64     `json:"bytes"`
	Created  time.Time `json:"created"`
	InUse    int       `json:"inUse"`    // servers of the project that run from it
	Uploaded bool      `json:"uploaded"` // by this call
}

func toPushed(i images.Image) Pushed {
	identity, _ := i.Properties[propertyImage].(string)
	return Pushed{ID: i.ID, Name: i.Name, Identity: identity, Status: string(i.Status), Bytes: i.SizeBytes, Created: i.CreatedAt}
}

// Push uploads an image, unless one with its identity is there. What it made
// is removed again if it fails or ctx ends.
func (c *Client) Push(ctx context.Context, u Upload, log *progress.Log) (Pushed, error) {
	list, err := c.pushed(ctx, u.Identity)
	if err != nil {
		return Pushed{}, err
	}
	for _, i := range list {
		if i.Status == images.ImageStatusActive {
			return toPushed(i), c.share(ctx, i, u.Share)
		}
		if i.Owner == c.project && time.Since(i.CreatedAt) > abandoned {
			if err := images.Delete(ctx, c.image, i.ID).ExtractErr(); err != nil && !isGone(err) {
				return Pushed{}, fmt.Errorf("removing image %s, whose upload was cut off: %w", i.ID, said(err))
			}
		}
	}
	f, err := os.Open(u.File)
	if err != nil {
		return Pushed{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Pushed{}, err
	}
	task := log.Start("upload image %s (%d MiB)", u.Identity, info.Size()>>20)
	i, err := c.upload(ctx, u, f, info.Size(), task)
	if err = task.Done(err); err != nil {
		return Pushed{}, err
	}
	out := toPushed(*i)
	out.Uploaded = true
	return out, c.share(ctx, *i, u.Share)
}

func (c *Client) upload(ctx context.Context, u Upload, f io.Reader, size int64, task *progress.Task) (img *images.Image, err error) {
	visibility := images.ImageVisibility(cmp.Or(u.Visibility, map[bool]string{true: "shared", false: "private"}[len(u.Share) > 0]))
	i, err := images.Create(ctx, c.image, images.CreateOpts{
		Name: "plasmid-" + u.Identity, DiskFormat: "qcow2", ContainerFormat: "bare", Visibility: &visibility,
		MinDisk: u.VirtualGiB, MinRAM: minRAM, Tags: tags(u.Identity), Properties: properties(u.Identity, u.Suite),
	}).Extract()
	if err != nil {
		return nil, said(err)
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			if e := images.Delete(ctx, c.image, i.ID).ExtractErr(); e != nil && !isGone(e) {
				err = fmt.Errorf("%w; and image %s could not be removed: %w", err, i.ID, said(e))
			}
		}
	}()
	sending, stalled := context.WithCancelCause(ctx)
	defer stalled(nil)
	stall := time.AfterFunc(uploadStall, func() { stalled(fmt.Errorf("the upload stood still for %v", uploadStall)) })
	defer stall.Stop()
	r := &uploadReader{r: f, size: size, task: task, md5: md5.New(), sha: sha512.New(), alive: func() { stall.Reset(uploadStall) }}
	if err := imagedata.Upload(sending, c.image, i.ID, r).ExtractErr(); err != nil {
		if cause := context.Cause(sending); cause != nil && ctx.Err() == nil {
			return nil, cause
		}
		return nil, said(err)
	}
	stall.Stop()
	task.Update("waiting until Glance has it")
	ctx2, cancel := context.WithTimeoutCause(ctx, settleTimeout, fmt.Errorf("the image is not active %v after its upload", settleTimeout))
	defer cancel()
	for {
		if img, err = images.Get(ctx2, c.image, i.ID).Extract(); err != nil {
			return nil, said(err)
		}
		switch img.Status {
		case images.ImageStatusActive:
			return img, r.verify(img)
		case images.ImageStatusKilled, images.ImageStatusDeleted:
			return nil, fmt.Errorf("Glance gave the image up: it is %s", img.Status)
		}
		if err := sleep(ctx2, pollEvery); err != nil {
			return nil, context.Cause(ctx2)
		}
	}
}

// uploadReader shows how far an upload is and sums up what is sent.
type uploadReader struct {
	r        io.Reader
	n, size  int64
	task     *progress.Task
	md5, sha hash.Hash
	alive    func()
}

func (u *uploadReader) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	u.alive()
	u.md5.Write(b[:n])
	u.sha.Write(b[:n])
	before := u.n >> 24
	if u.n += int64(n); u.n>>24 != before {
		u.task.Update("%d of %d MiB", u.n>>20, u.size>>20)
	}
	return n, err
}

// verify compares Glance's sum with ours: the one that it was set up to make,
// else its old MD5.
func (u *uploadReader) verify(i *images.Image) error {
	want, got := "", ""
	if algo, _ := i.Properties["os_hash_algo"].(string); algo == "sha512" {
		want, _ = i.Properties["os_hash_value"].(string)
		got = hex.EncodeToString(u.sha.Sum(nil))
	} else {
		want, got = i.Checksum, hex.EncodeToString(u.md5.Sum(nil))
	}
	if want == "" {
		return errors.New("Glance gives no checksum of the image, so nobody knows whether it arrived whole")
	}
	if want != got {
		return fmt.Errorf("the image was spoiled on its way: its checksum is %s there and %s here; try again", want, got)
	}
	return nil
}

// share lets other projects use an image.
func (c *Client) share(ctx context.Context, i images.Image, projects []string) error {
	if len(projects) > 0 && i.Visibility == images.ImageVisibilityPrivate {
		if _, err := images.Update(ctx, c.image, i.ID, images.UpdateOpts{images.UpdateVisibility{Visibility: images.ImageVisibilityShared}}).Extract(); err != nil {
			return said(err)
		}
	}
	for _, p := range projects {
		if _, err := members.Create(ctx, c.image, i.ID, p).Extract(); err != nil && !hasCode(err, 409) { // 409: it may already
			return fmt.Errorf("sharing image %s with project %s: %w", i.Name, p, said(err))
		}
	}
	return nil
}

// Images lists what was pushed, the newest first.
func (c *Client) Images(ctx context.Context) ([]Pushed, error) {
	list, err := c.pushed(ctx, "")
	if err != nil {
		return nil, err
	}
	all, err := all(ctx, servers.List(c.compute, servers.ListOpts{}), servers.ExtractServers)
	if err != nil {
		return nil, err
	}
	used := map[string]int{}
	for _, s := range all {
		if id, ok := s.Image["id"].(string); ok {
			used[id]++
		} else if v := s.Metadata[metaImage]; v != "" {
			used[v]++ // booted from a volume that was made from it
		}
	}
	out := make([]Pushed, 0, len(list))
	for _, i := range list {
		p := toPushed(i)
		p.InUse = used[p.ID] + used[p.Identity]
		out = append(out, p)
	}
	return out, nil
}

// Prune deletes the project's pushed images but the newest keep and those in
// use. It returns what it deleted.
func (c *Client) Prune(ctx context.Context, keep int) ([]Pushed, error) {
	list, err := c.Images(ctx)
	if err != nil {
		return nil, err
	}
	owned, err := c.pushed(ctx, "")
	if err != nil {
		return nil, err
	}
	var gone []Pushed
	for n, i := range list {
		ours := slices.ContainsFunc(owned, func(o images.Image) bool { return o.ID == i.ID && o.Owner == c.project && !o.Protected })
		complete := strings.EqualFold(i.Status, string(images.ImageStatusActive)) || time.Since(i.Created) > abandoned
		if n < keep || i.InUse > 0 || !ours || !complete {
			continue
		}
		if err := images.Delete(ctx, c.image, i.ID).ExtractErr(); err != nil && !isGone(err) {
			return gone, fmt.Errorf("deleting image %s: %w", i.Name, said(err))
		}
		gone = append(gone, i)
	}
	return gone, nil
}
