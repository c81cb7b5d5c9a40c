package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"plasmid/runtime/store"
)

// wish is what the store last said this machine should run. It is kept on
// disk, so that it holds while the store is away.
type wish struct {
	Cluster    string                     `json:"cluster"` // the identity's ID
	Revision   int64                      `json:"revision"`
	Placements map[string]store.Placement `json:"placements"`
}

const wishFile = "wish.json"

func loadWish(dir string) (wish, error) {
	w := wish{Placements: map[string]store.Placement{}}
	data, err := os.ReadFile(filepath.Join(dir, wishFile))
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return w, fmt.Errorf("%s: %w; remove it if the disk was damaged: the store knows it too", filepath.Join(dir, wishFile), err)
	}
	return w, nil
}

func (w *wish) save(dir string) error {
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, wishFile)
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// doubt says why an update can't be believed. A store that lost what it knew
// looks like one that wants nothing: it must not stop anything.
func (w *wish) doubt(u store.PlacementUpdate) string {
	switch {
	case u.Identity.ID == "":
		return "it holds no cluster: it was wiped, or is new"
	case w.Cluster != "" && u.Identity.ID != w.Cluster:
		return fmt.Sprintf("it is of another cluster: %s (%s), not %s", u.Identity.ID, u.Identity.Name, w.Cluster)
	case u.Identity.Version > store.SchemaVersion:
		return (&store.NewerSchemaError{Have: u.Identity.Version, Know: store.SchemaVersion}).Error()
	case u.Revision < w.Revision:
		return fmt.Sprintf("it is at revision %d and was at %d before: it was restored from an older copy", u.Revision, w.Revision)
	}
	return ""
}

func (w *wish) apply(u store.PlacementUpdate) {
	next := map[string]store.Placement{}
	if !u.Snapshot {
		next = maps.Clone(w.Placements)
	}
	for _, p := range u.Put {
		next[p.Unit] = p
	}
	for _, name := range u.Deleted {
		delete(next, name)
	}
	w.Cluster, w.Revision, w.Placements = u.Identity.ID, u.Revision, next
}
