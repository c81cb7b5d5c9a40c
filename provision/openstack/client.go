package openstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"plasmid/internal/version"
)

// microversion of Nova that is spoken: of OpenStack Rocky (2018), the first
// with one policy per server group.
const microversion = "2.64"

// Client talks to the services of a cloud in the name of one project.
type Client struct {
	compute, network, image *gophercloud.ServiceClient
	volume                  *gophercloud.ServiceClient // nil: there is no block storage
	project                 string                     // ID; empty: the token does not say
	calls                   atomic.Int64
}

// Connect logs in and finds the services.
func Connect(ctx context.Context, c Credentials) (*Client, error) {
	out := &Client{}
	base := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		DialContext:     (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig: c.tls, TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
	}
	provider, err := openstack.NewClient(c.auth.IdentityEndpoint)
	if err != nil {
		return nil, err
	}
	provider.HTTPClient = http.Client{Transport: &transport{base, &out.calls}}
	provider.UserAgent.Prepend("plasmid/" + version.Version)
	if err := openstack.Authenticate(ctx, provider, c.auth); err != nil {
		if hasCode(err, http.StatusUnauthorized) {
			return nil, fmt.Errorf("%s does not accept the credentials: %w", c.auth.IdentityEndpoint, said(err))
		}
		return nil, fmt.Errorf("asking %s for a token: %w", c.auth.IdentityEndpoint, said(err))
	}
	if r, ok := provider.GetAuthResult().(tokens.CreateResult); ok {
		if p, err := r.ExtractProject(); err == nil && p != nil {
			out.project = p.ID
		}
	}
	for _, s := range []struct {
		name string
		to   **gophercloud.ServiceClient
		make func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)
	}{
		{"compute", &out.compute, openstack.NewComputeV2},
		{"network", &out.network, openstack.NewNetworkV2},
		{"image", &out.image, openstack.NewImageV2},
		{"block storage", &out.volume, openstack.NewBlockStorageV3},
	} {
		client, err := s.make(provider, c.endpoint)
		var none *gophercloud.ErrEndpointNotFound
		if missing := (gophercloud.ErrEndpointNotFound{}); errors.As(err, &missing) || errors.As(err, &none) {
			if s.to == &out.volume {
				continue
			}
			return nil, fmt.Errorf("the cloud's catalog has no %s service%s; check the region and interface of its entry in clouds.yaml", s.name, inRegion(c.endpoint.Region))
		}
		if err != nil {
			return nil, fmt.Errorf("%s service: %w", s.name, said(err))
		}
		*s.to = client
	}
	out.compute.Microversion = microversion
	return out, nil
}

func inRegion(region string) string {
	if region == "" {
		return ""
	}
	return " in region " + region
}

// Project is the ID of the project; empty if the token does not say.
func (c *Client) Project() string { return c.project }

// Calls is how many calls were made, those included that were made again.
func (c *Client) Calls() int64 { return c.calls.Load() }
