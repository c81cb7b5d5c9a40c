package client

import (
	"context"
	"net/http"
	"net/url"

	"plasmid/runtime/api"
	"plasmid/runtime/store"
)

// SetSecret sets an app's secret and reports whether that changed anything.
func (c *Client) SetSecret(ctx context.Context, app, name string, v api.SecretValue) (bool, error) {
	a, err := call[api.SecretChanged](ctx, c, http.MethodPut, secretPath(app, name), v)
	return a.Revision > 0, err
}

// RemoveSecret removes an app's secret.
func (c *Client) RemoveSecret(ctx context.Context, app, name string) error {
	_, err := call[api.SecretChanged](ctx, c, http.MethodDelete, secretPath(app, name), nil)
	return err
}

// Secrets lists an app's secrets, or with an empty name those of all apps.
func (c *Client) Secrets(ctx context.Context, app string) ([]store.SecretInfo, error) {
	return call[[]store.SecretInfo](ctx, c, http.MethodGet, "/plasmid/v1/secrets?"+url.Values{"app": {app}}.Encode(), nil)
}

func secretPath(app, name string) string {
	return "/plasmid/v1/apps/" + url.PathEscape(app) + "/secrets/" + url.PathEscape(name)
}
