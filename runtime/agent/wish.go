package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"

	"plasmid/runtime/store"
)

// wish is what the store last said this machine should run. It is kept on
// disk, so that it holds while the store is away.
type wish struct {
	Cluster    string                     `json:"cluster"` // the identity's ID
	Etcd       uint64                     `json:"etcd"`    // etcd's own; 0: not known
	Revision   int64                      `json:"revision"`
	Placements map[string]store.Placement `json:"placements"`
}

const wishFile = "wish.json"

// loadWish reads the wish. One that can't be read, after the disk was damaged,
// is set aside: the store knows it too.
func loadWish(dir string, log *slog.Logger) (wish, error) {
	w := wish{Placements: map[string]store.Placement{}}
	name := filepath.Join(dir, wishFile)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal(data, &w); err != nil || w.Placements == nil {
		log.Error("the kept wish can't be read; it is set aside, and the store asked", "file", name+".bad", "err", err)
		return wish{Placements: map[string]store.Placement{}}, os.Rename(name, name+".bad")
	}
	return w, nil
}

// save writes the wish so that a crash, also of the machine, leaves the old
// one or the new one.
func (w *wish) save(dir string) error {
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, wishFile)
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
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
		return fmt.Sprintf("it is of another cluster: %s (%s), not %s; "+
			"if this machine is to join that one, remove %s on it and restart plasmidd", u.Identity.ID, u.Identity.Name, w.Cluster, wishFile)
	case u.Identity.Version > store.SchemaVersion:
		return (&store.NewerSchemaError{Have: u.Identity.Version, Know: store.SchemaVersion}).Error()
	case w.Etcd != 0 && u.Etcd != w.Etcd:
		// Its revision says nothing: it has been counting since.
		return fmt.Sprintf("its etcd was made anew: it was restored from a copy that may be older than what was known; "+
			"if it is to be followed all the same, remove %s on this machine and restart plasmidd", wishFile)
	case u.Revision < w.Revision:
		return fmt.Sprintf("it is at revision %d and was at %d before: it was restored from an older copy; "+
			"if it is to be followed all the same, remove %s on this machine and restart plasmidd", u.Revision, w.Revision, wishFile)
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
	w.Cluster, w.Etcd, w.Revision, w.Placements = u.Identity.ID, u.Etcd, u.Revision, next
}
