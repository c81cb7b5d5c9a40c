package forwarder

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// entry is what is remembered of a file. Its name is not: a file keeps its
// entry when it is renamed.
type entry struct {
	Source string `json:"source"` // names the file in the store, for ever
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"` // up to here all is stored

	// Head is the hash of the file's first HeadSize bytes: another file that
	// got the inode of a removed one begins otherwise.
	Head     string `json:"head"`
	HeadSize int64  `json:"headSize"`
}

// maxHead is how much of a file tells it from others, in bytes.
const maxHead = 512

func fileID(info fs.FileInfo) (device, inode uint64) {
	st := info.Sys().(*syscall.Stat_t)
	return uint64(st.Dev), st.Ino
}

func newEntry(info fs.FileInfo, host string) *entry {
	device, inode := fileID(info)
	return &entry{Source: host + "-" + rand.Text(), Device: device, Inode: inode}
}

func head(f io.ReaderAt, n int64) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, n)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// is reports whether the entry is of this file as it is now.
func (e *entry) is(f *os.File, info fs.FileInfo) (bool, error) {
	device, inode := fileID(info)
	if e.Device != device || e.Inode != inode || info.Size() < e.Offset || info.Size() < e.HeadSize {
		return false, nil
	}
	h, err := head(f, e.HeadSize)
	return h == e.Head || e.HeadSize == 0, err
}

// acked moves the offset on.
func (e *entry) acked(f io.ReaderAt, offset int64) error {
	e.Offset = offset
	if n := min(offset, maxHead); n != e.HeadSize {
		h, err := head(f, n)
		if err != nil {
			return err
		}
		e.Head, e.HeadSize = h, n
	}
	return nil
}

// loadRegistry reads the entries; there are none at first.
func loadRegistry(name string) ([]*entry, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var es []*entry
	if err := json.Unmarshal(data, &es); err != nil {
		return nil, fmt.Errorf("registry %s: %w", name, err)
	}
	return es, nil
}

// saveRegistry writes the entries, all or none, to the disk.
func saveRegistry(name string, es []*entry) error {
	data, err := json.Marshal(es)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
