// Package images keeps the container images of a cluster's apps on its
// machines, as blobs named by their SHA-256, and hands them to Docker and to
// each other. No registry is needed, and every copy is as good as another.
package images

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Digest is sha256:<64 hex digits>.
type Digest string

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// ParseDigest refuses anything that is not a digest, path separators above all.
func ParseDigest(s string) (Digest, error) {
	if !digestPattern.MatchString(s) {
		return "", fmt.Errorf("%q is no digest of the form sha256:<64 hex digits>", s)
	}
	return Digest(s), nil
}

// Store is a directory of blobs.
type Store struct{ dir string }

// ErrNoBlob means that the machine does not have a blob.
var ErrNoBlob = errors.New("no such blob on this machine")

// ErrDamaged means that a blob is not what its digest says.
var ErrDamaged = errors.New("damaged blob")

// Open returns the store in a directory, which is made if need be.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, "sha256"), 0o700); err != nil {
		return nil, err
	}
	// What a process before did not finish writing.
	stale, err := filepath.Glob(filepath.Join(dir, "sha256", ".new-*"))
	if err != nil {
		return nil, err
	}
	for _, s := range stale {
		if err := os.Remove(s); err != nil {
			return nil, err
		}
	}
	return &Store{dir: dir}, nil
}

func (s *Store) path(d Digest) string {
	return filepath.Join(s.dir, "sha256", strings.TrimPrefix(string(d), "sha256:"))
}

// Has reports whether the blob is there.
func (s *Store) Has(d Digest) bool {
	_, err := os.Stat(s.path(d))
	return err == nil
}

// Get opens a blob; ErrNoBlob if it is not there.
func (s *Store) Get(d Digest) (*os.File, error) {
	f, err := os.Open(s.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoBlob
	}
	if err == nil {
		s.wanted(d)
	}
	return f, err
}

// Put writes a blob. What does not have the digest is refused with ErrDamaged,
// and nothing of it is kept. When Put returns nil, the blob survives a loss of
// power.
func (s *Store) Put(d Digest, r io.Reader) error {
	if s.Has(d) {
		s.wanted(d)
		return nil
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, "sha256"), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	if have := digestOf(h.Sum(nil)); have != d {
		return fmt.Errorf("%w: %s arrived as %s", ErrDamaged, d, have)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.path(d)); err != nil {
		return err
	}
	return syncDir(filepath.Join(s.dir, "sha256"))
}

func digestOf(sum []byte) Digest { return Digest("sha256:" + hex.EncodeToString(sum)) }

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// dropDamaged reads a blob again and removes it if the disk did not keep what
// was written. It reports whether it removed it.
func (s *Store) dropDamaged(d Digest) (bool, error) {
	f, err := s.Get(d)
	if errors.Is(err, ErrNoBlob) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	// What can't be read is as bad as what reads wrong.
	if _, err := io.Copy(h, f); err == nil && digestOf(h.Sum(nil)) == d {
		return false, nil
	}
	return true, os.Remove(f.Name())
}
