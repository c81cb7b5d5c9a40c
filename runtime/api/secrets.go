package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"plasmid/runtime/store"
)

// Secrets keeps what apps' containers get as files. Values can be set, and
// nobody can ask for them.
type Secrets interface {
	PutSecret(ctx context.Context, app, name string, s store.Secret) (int64, error)
	DeleteSecret(ctx context.Context, app, name string) (int64, error)
	Secrets(ctx context.Context, app string) ([]store.SecretInfo, error)
}

// SecretValue is the body by which a secret is set.
type SecretValue struct {
	Value []byte `json:"value"` // base64 in JSON
	UID   int    `json:"uid"`   // of who reads it in containers
}

// SecretChanged is the answer.
type SecretChanged struct {
	Revision int64 `json:"revision"` // 0: it was so already
}

func (s *server) secretRoutes() []route {
	const one = "/plasmid/v1/apps/{app}/secrets/{name}"
	return []route{
		{method: "GET", path: "/plasmid/v1/secrets", least: RoleReader, handle: s.listSecrets},
		{method: "PUT", path: one, least: RoleOperator, handle: s.setSecret},
		{method: "DELETE", path: one, least: RoleOperator, handle: s.removeSecret},
	}
}

func (s *server) listSecrets(w http.ResponseWriter, r *http.Request) {
	list, err := s.Secrets.Secrets(r.Context(), r.URL.Query().Get("app"))
	if err != nil {
		failStore(w, err)
		return
	}
	write(w, http.StatusOK, list)
}

func (s *server) setSecret(w http.ResponseWriter, r *http.Request) {
	app, name := r.PathValue("app"), r.PathValue("name")
	var v SecretValue
	err := store.CheckSecret(app, name)
	if err == nil {
		err = decodeBody(r, &v)
	}
	switch {
	case err != nil:
	case len(v.Value) == 0:
		err = fmt.Errorf("secret %s is empty", name)
	case len(v.Value) > store.MaxSecret:
		err = fmt.Errorf("secret %s is longer than %d KiB", name, store.MaxSecret>>10)
	case v.UID < 0:
		err = fmt.Errorf("uid %d is none", v.UID)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	revision, err := s.Secrets.PutSecret(r.Context(), app, name, store.Secret{Value: v.Value, UID: v.UID, Changed: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		failStore(w, err)
		return
	}
	if revision > 0 {
		note(r, revision, "set secret "+app+"/"+name)
	}
	write(w, http.StatusOK, SecretChanged{revision})
}

func (s *server) removeSecret(w http.ResponseWriter, r *http.Request) {
	app, name := r.PathValue("app"), r.PathValue("name")
	if err := store.CheckSecret(app, name); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	revision, err := s.Secrets.DeleteSecret(r.Context(), app, name)
	if err != nil {
		failStore(w, err)
		return
	}
	note(r, revision, "removed secret "+app+"/"+name)
	write(w, http.StatusOK, SecretChanged{revision})
}
