package join

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Snapshot writes what the cluster's etcd holds to a new file, which only its
// owner can read: secrets are in it. It is as etcdctl snapshot save would have
// made it, for etcdutl snapshot restore. It returns the file's size in bytes.
func (a *Access) Snapshot(ctx context.Context, name string) (int64, error) {
	if _, err := os.Lstat(name); err == nil {
		return 0, fmt.Errorf("%s is there already; choose another name, or remove it", name)
	}
	s, err := a.OpenStore(ctx)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := s.Ping(ask); err != nil {
		return 0, fmt.Errorf("etcd does not answer: %w; look at: plasmid status", err)
	}
	r, err := s.Client().Snapshot(ctx)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	// Beside it and renamed: a file of that name is whole.
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	n, err := io.Copy(f, r)
	if err == nil {
		err = checkSnapshot(f, n)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return 0, err
	}
	return n, os.Rename(f.Name(), name)
}

// checkSnapshot compares the SHA-256 with which a snapshot of n bytes ends with
// what comes before it.
func checkSnapshot(f io.ReaderAt, n int64) error {
	n -= sha256.Size
	if n <= 0 {
		return errors.New("etcd sent no whole snapshot; try again")
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, n)); err != nil {
		return err
	}
	want := make([]byte, sha256.Size)
	if _, err := f.ReadAt(want, n); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), want) {
		return errors.New("etcd's snapshot came with a wrong checksum; try again")
	}
	return nil
}
