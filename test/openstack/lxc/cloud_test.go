//go:build openstack

package lxc

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
)

// cloud is the project as others see it, who know nothing of Plasmid.
type cloud struct{ compute, network *gophercloud.ServiceClient }

func newCloud(t *testing.T) *cloud {
	t.Helper()
	if os.Getenv("OS_CLOUD") == "" {
		t.Fatal("this test runs in a lab: test/openstack/lxc/run")
	}
	auth, region, tls, err := clouds.Parse()
	if err != nil {
		t.Fatal(err)
	}
	p, err := config.NewProviderClient(t.Context(), auth, config.WithTLSConfig(tls))
	if err != nil {
		t.Fatal(err)
	}
	var c cloud
	if c.compute, err = openstack.NewComputeV2(p, region); err != nil {
		t.Fatal(err)
	}
	if c.network, err = openstack.NewNetworkV2(p, region); err != nil {
		t.Fatal(err)
	}
	c.compute.Microversion = "2.64"
	return &c
}

// census lists what there is, by the services' own lists.
func (c *cloud) census(ctx context.Context) ([]string, error) {
	var all []string
	list := func(s *gophercloud.ServiceClient, path, key string) error {
		var body map[string][]map[string]any
		if _, err := s.Get(ctx, s.ServiceURL(path), &body, nil); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, o := range body[key] {
			all = append(all, fmt.Sprint(key, " ", o["id"], " ", o["name"], " ", o["description"]))
		}
		return nil
	}
	for _, k := range []string{"networks", "subnets", "routers", "ports", "floatingips"} {
		if err := list(c.network, k, k); err != nil {
			return nil, err
		}
	}
	if err := list(c.network, "security-groups", "security_groups"); err != nil {
		return nil, err
	}
	if err := list(c.compute, "servers", "servers"); err != nil {
		return nil, err
	}
	return all, list(c.compute, "os-server-groups", "server_groups")
}

func (c *cloud) mustCensus(t *testing.T) []string {
	t.Helper()
	all, err := c.census(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// more is what there is now and was not before.
func more(before, after []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(after), func(a string) bool { return slices.Contains(before, a) }), "\n")
}

// servers are those that are active, by name.
func (c *cloud) servers(ctx context.Context) (map[string]string, error) {
	pages, err := servers.List(c.compute, nil).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := servers.ExtractServers(pages)
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for _, s := range list {
		if s.Status == "ACTIVE" {
			ids[s.Name] = s.ID
		}
	}
	return ids, nil
}

// remove deletes a server as somebody does who does not ask Plasmid.
func (c *cloud) remove(t *testing.T, name string) {
	t.Helper()
	ids, err := c.servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := servers.Delete(t.Context(), c.compute, ids[name]).ExtractErr(); err != nil {
		t.Fatalf("deleting server %q: %v", ids[name], err)
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
		_, err := servers.Get(t.Context(), c.compute, ids[name]).Extract()
		if gophercloud.ResponseCodeIs(err, 404) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("server %s is still there: %v", name, err)
		}
	}
}
