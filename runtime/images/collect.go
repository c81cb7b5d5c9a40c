package images

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	// unwanted is how long a blob that no unit names is kept after it was last
	// asked for: its unit may be about to be submitted, or to come back.
	unwanted     = 24 * time.Hour
	collectEvery = time.Hour
)

// Collector removes the blobs that nothing in the cluster names any more, and
// then what Docker has made of them.
type Collector struct {
	Store *Store
	// Docker lists the images that came from this machine's registry, by
	// reference, and removes one that no container has; nil: it is left alone.
	Docker interface {
		Images(ctx context.Context, registry string) ([]string, error)
		RemoveImage(ctx context.Context, ref string) (removed bool, err error)
	}
	Registry string // where Store.Registry listens, host:port
	// Texts are those of all units and placements, and whether they are known:
	// a store that is away or was wiped names nothing, and means nothing by it.
	Texts  func() (texts []string, known bool)
	Logger *slog.Logger
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(collectEvery):
		}
		texts, known := c.Texts()
		if !known {
			continue
		}
		n, bytes, err := c.Store.collect(texts, time.Now().Add(-unwanted))
		if err != nil {
			c.Logger.Warn("image blobs that no unit names could not be removed", "err", err)
		}
		if n > 0 {
			c.Logger.Info("removed image blobs that no unit names", "blobs", n, "bytes", bytes)
		}
		if err := c.collectDocker(ctx, texts); err != nil && ctx.Err() == nil {
			c.Logger.Warn("Docker's images that no unit names could not be removed", "err", err)
		}
	}
}

// collectDocker has Docker remove the images that it got from here, that no text
// names and whose blobs have gone, which they do a day after they were last asked
// for. What a container uses stays.
func (c *Collector) collectDocker(ctx context.Context, texts []string) error {
	if c.Docker == nil {
		return nil
	}
	named := map[string]bool{}
	for _, text := range texts {
		for _, found := range digestInText.FindAllString(text, -1) {
			named[found] = true
		}
	}
	refs, err := c.Docker.Images(ctx, c.Registry)
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range refs {
		_, digest, _ := strings.Cut(ref, "@")
		d, err := ParseDigest(digest)
		if err != nil || named[digest] || c.Store.Has(d) {
			continue
		}
		removed, err := c.Docker.RemoveImage(ctx, ref)
		if removed {
			c.Logger.Info("had Docker remove an image that no unit names", "image", ref)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

var digestInText = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// collect removes the blobs that were last asked for before a time and are
// neither in an image that a text names nor named themselves.
func (s *Store) collect(texts []string, before time.Time) (n int, bytes int64, err error) {
	keep := map[string]bool{}
	for _, text := range texts {
		for _, found := range digestInText.FindAllString(text, -1) {
			d := Digest(found)
			if keep[s.path(d)] {
				continue
			}
			keep[s.path(d)] = true
			blobs, err := s.named(d)
			if errors.Is(err, ErrNoBlob) {
				continue
			}
			if err != nil {
				return 0, 0, err // it may name anything
			}
			for _, b := range blobs {
				keep[s.path(b)] = true
			}
		}
	}
	files, err := os.ReadDir(filepath.Join(s.dir, "sha256"))
	if err != nil {
		return 0, 0, err
	}
	for _, f := range files {
		path := filepath.Join(s.dir, "sha256", f.Name())
		if _, err := ParseDigest("sha256:" + f.Name()); err != nil || keep[path] {
			continue
		}
		info, err := f.Info()
		if err != nil || !info.ModTime().Before(before) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, bytes, err
		}
		n, bytes = n+1, bytes+info.Size()
	}
	return n, bytes, nil
}

// wanted notes that a blob was asked for.
func (s *Store) wanted(d Digest) {
	now := time.Now()
	_ = os.Chtimes(s.path(d), now, now) // at worst it is fetched again
}
