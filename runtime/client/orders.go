package client

import (
	"context"
	"net/http"
	"net/url"

	"plasmid/runtime/api"
	"plasmid/runtime/store"
)

func orderPath(machine string) string {
	return "/plasmid/v1/machines/" + url.PathEscape(machine) + "/order"
}

// Order has a machine, named by its ID, get no more units or be drained.
func (c *Client) Order(ctx context.Context, machine string, o api.Order) error {
	_, err := call[api.Applied](ctx, c, http.MethodPut, orderPath(machine), o)
	return err
}

// Uncordon has a machine serve as usual again.
func (c *Client) Uncordon(ctx context.Context, machine string) error {
	_, err := call[api.Applied](ctx, c, http.MethodDelete, orderPath(machine), nil)
	return err
}

// Rebalance orders the units to be evened out, budget of them at a time.
func (c *Client) Rebalance(ctx context.Context, budget int) error {
	_, err := call[api.Applied](ctx, c, http.MethodPut, "/plasmid/v1/rebalance", api.Order{Budget: budget})
	return err
}

// Rebalancing returns the order under way, or nil.
func (c *Client) Rebalancing(ctx context.Context) (*store.Rebalance, error) {
	return call[*store.Rebalance](ctx, c, http.MethodGet, "/plasmid/v1/rebalance", nil)
}

// Waiting says of units that are to move or to change what they wait for.
func (c *Client) Waiting(ctx context.Context) (map[string]string, error) {
	return call[map[string]string](ctx, c, http.MethodGet, "/plasmid/v1/waiting", nil)
}
