package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Image is a built image: a directory <state>/images/<ID>.
type Image struct {
	ID       string   `json:"id"`
	Dir      string   `json:"dir"`
	Manifest Manifest `json:"manifest"`
}

// Tree is the directory that local machines run from.
func (i *Image) Tree() string { return filepath.Join(i.Dir, "tree") }

// Disk is the qcow2. It is there only if the image was built with it.
func (i *Image) Disk() string { return filepath.Join(i.Dir, "disk.qcow2") }

// SBOM is the SPDX document.
func (i *Image) SBOM() string { return filepath.Join(i.Dir, "sbom.spdx.json") }

// InCloud reports that the image was built in a cloud: it is there, and here is
// only what is known of it.
func (i *Image) InCloud() bool { return i.Manifest.Inputs.Source != nil }

// HasDisk reports whether the qcow2 was built.
func (i *Image) HasDisk() bool {
	_, err := os.Stat(i.Disk())
	return err == nil
}

// ErrNone is returned when no image was built yet.
var ErrNone = errors.New("there is no image yet; build one with: plasmid image build")

func imagesDir(state string) string { return filepath.Join(state, "images") }

// List returns the images, newest first.
func List(state string) ([]*Image, error) {
	entries, err := os.ReadDir(imagesDir(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var images []*Image
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // being built, or left by a build that was cut off
		}
		i, err := ByID(state, e.Name())
		if err != nil {
			return nil, err
		}
		images = append(images, i)
	}
	slices.SortFunc(images, func(a, b *Image) int {
		return cmp.Or(b.Manifest.Created.Compare(a.Manifest.Created), cmp.Compare(a.ID, b.ID))
	})
	return images, nil
}

// Latest returns the image that was built, or found to be up to date, last.
func Latest(state string) (*Image, error) { return linked(state, ".latest") }

// For returns the image that was built last for an image block of a cluster
// file: those of other blocks on the same host do not count.
func For(o Options) (*Image, error) {
	i, err := linked(o.State, o.link())
	if errors.Is(err, ErrNone) {
		return nil, fmt.Errorf("no image was built yet for the image block of this cluster file; build it with: plasmid image build")
	}
	return i, err
}

func linked(state, link string) (*Image, error) {
	id, err := os.Readlink(filepath.Join(imagesDir(state), link))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	return ByID(state, id)
}

// ByID returns the image whose ID is, or uniquely starts with, id.
func ByID(state, id string) (*Image, error) {
	matches, err := filepath.Glob(filepath.Join(imagesDir(state), id+"*"))
	if err != nil || id == "" || strings.ContainsAny(id, "/*?[") {
		return nil, fmt.Errorf("%q is no image ID", id)
	}
	switch len(matches) {
	case 0:
		return nil, fmt.Errorf("there is no image %s; plasmid image list shows those there are", id)
	case 1:
	default:
		return nil, fmt.Errorf("%d images begin with %s; give more of the ID", len(matches), id)
	}
	i := &Image{ID: filepath.Base(matches[0]), Dir: matches[0]}
	data, err := os.ReadFile(filepath.Join(i.Dir, "manifest.json"))
	if err != nil {
		return nil, fmt.Errorf("image %s is damaged: %w; remove %s and build it again", i.ID, err, i.Dir)
	}
	if err := json.Unmarshal(data, &i.Manifest); err != nil {
		return nil, fmt.Errorf("image %s is damaged: manifest.json: %w; remove %s and build it again", i.ID, err, i.Dir)
	}
	return i, nil
}

// markLatest makes those find an image who look by these links: Latest, and For.
func markLatest(state, id string, links ...string) error {
	for _, name := range links {
		link := filepath.Join(imagesDir(state), name)
		tmp := link + ".new"
		if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(id, tmp); err != nil {
			return err
		}
		if err := os.Rename(tmp, link); err != nil {
			return err
		}
	}
	return nil
}

// Prune removes all but the newest keep images, the latest of every image
// block, and those that inUse names. It returns the IDs of those removed.
func Prune(state string, keep int, inUse func(id string) bool) ([]string, error) {
	images, err := List(state)
	if err != nil {
		return nil, err
	}
	links, err := filepath.Glob(filepath.Join(imagesDir(state), ".*"))
	if err != nil {
		return nil, err
	}
	linked := map[string]bool{}
	for _, l := range links {
		if id, err := os.Readlink(l); err == nil {
			linked[id] = true
		}
	}
	var removed []string
	for n, i := range images {
		if n < keep || linked[i.ID] || inUse(i.ID) {
			continue
		}
		// Renamed first, so that what is half removed is no image.
		gone := filepath.Join(imagesDir(state), ".removed-"+i.ID)
		if err := os.Rename(i.Dir, gone); err != nil {
			return removed, err
		}
		if err := os.RemoveAll(gone); err != nil {
			return removed, err
		}
		removed = append(removed, i.ID)
	}
	return removed, nil
}
