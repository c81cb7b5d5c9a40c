package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

// accessFiles are what an Access is made of. The token is last: with it the
// directory counts as whole.
var accessFiles = []string{
	"ca.crt", "ca.key", "admin.crt", "admin.key", "ssh_ed25519", "ssh_ed25519.pub",
	"known_hosts", "gates.json", "members.json", "token",
}

// mayLack are files that come with the first machines.
var mayLack = []string{"known_hosts", "gates.json", "members.json"}

// exportVersion is of what is inside an export.
const exportVersion = 1

// maxExport is far more than the files of a thousand machines.
const maxExport = 16 << 20

// export is what is encrypted.
type export struct {
	Version int               `json:"version"`
	Cluster string            `json:"cluster"`
	Files   map[string][]byte `json:"files"`
}

// ErrPassphrase means that a file was not encrypted with this passphrase.
var ErrPassphrase = errors.New("the passphrase is not the one of this file")

// Export writes all that another workstation needs to carry on with the
// cluster, encrypted in the format of age(1).
func (a *Access) Export(w io.Writer, cluster, passphrase string) error {
	e := export{Version: exportVersion, Cluster: cluster, Files: map[string][]byte{}}
	for _, name := range accessFiles {
		data, err := os.ReadFile(a.file(name))
		if errors.Is(err, os.ErrNotExist) && slices.Contains(mayLack, name) {
			continue
		}
		if err != nil {
			return err
		}
		e.Files[name] = data
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return err
	}
	out, err := age.Encrypt(w, to)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(e); err != nil {
		return err
	}
	return out.Close()
}

// Exported is an export that was opened.
type Exported struct{ export }

// Cluster is the name of the cluster that it gives access to.
func (e *Exported) Cluster() string { return e.export.Cluster }

// ReadExport decrypts what Export wrote, and checks that it is whole.
func ReadExport(r io.Reader, passphrase string) (*Exported, error) {
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	in, err := age.Decrypt(r, id)
	var wrong *age.NoIdentityMatchError
	if errors.As(err, &wrong) {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, fmt.Errorf("it is not what plasmid access export writes, or was damaged: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(in, maxExport+1))
	if err != nil {
		return nil, fmt.Errorf("it was damaged or cut off: %w", err)
	}
	if len(data) > maxExport {
		return nil, fmt.Errorf("it holds more than %d MiB, which no cluster's access does", maxExport>>20)
	}
	var e Exported
	if err := json.Unmarshal(data, &e.export); err != nil {
		return nil, fmt.Errorf("it holds something else than access to a cluster: %w", err)
	}
	if e.Version != exportVersion {
		return nil, fmt.Errorf("it is of version %d, and this plasmid reads version %d; use the plasmid that wrote it, or a newer one", e.Version, exportVersion)
	}
	if c := e.export.Cluster; c == "" || c != filepath.Base(c) || strings.HasPrefix(c, ".") {
		return nil, fmt.Errorf("it names a cluster %q, which can't be", c)
	}
	for name := range e.Files {
		if !slices.Contains(accessFiles, name) {
			return nil, fmt.Errorf("it holds a file %q, which access has none of", name)
		}
	}
	for _, name := range accessFiles {
		if e.Files[name] == nil && !slices.Contains(mayLack, name) {
			return nil, fmt.Errorf("it lacks %s", name)
		}
	}
	return &e, nil
}

// Save makes the directory, which must not be there unless replace says that
// its place may be taken. Either all of it is there afterwards, or what was.
func (e *Exported) Save(dir string, replace bool) (*Access, error) {
	if _, err := os.Lstat(dir); err == nil && !replace {
		return nil, fmt.Errorf("%s is there already: %w", dir, os.ErrExist)
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(parent, ".import-*") // 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	next := &Access{Dir: tmp}
	for _, name := range accessFiles {
		if data := e.Files[name]; data != nil {
			if err := next.write(name, data); err != nil {
				return nil, err
			}
		}
	}
	// That the keys are keys is seen before anything takes a place.
	if _, err := LoadAccess(tmp); err != nil {
		return nil, fmt.Errorf("its keys can't be used: %w", err)
	}
	// With what was there, if anything, which then goes with tmp.
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return LoadAccess(dir)
}
