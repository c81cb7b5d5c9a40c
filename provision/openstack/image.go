package openstack

import (
	"context"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
)

// tag is what an image in Glance is found by: that it is Plasmid's, and which.
const tagPlasmid = "plasmid-image"

func tagIdentity(identity string) string { return tagPlasmid + "=" + identity }

// pushed lists the images in Glance that have an identity; empty: all of
// Plasmid's.
func (c *Client) pushed(ctx context.Context, identity string) ([]images.Image, error) {
	tag := tagPlasmid
	if identity != "" {
		tag = tagIdentity(identity)
	}
	return all(ctx, images.List(c.image, images.ListOpts{Tags: []string{tag}, Sort: "created_at:desc"}), images.ExtractImages)
}
