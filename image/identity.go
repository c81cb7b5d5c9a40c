package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"plasmid/provision/config"
)

// format is changed when the builder itself makes other images of the same
// input.
const format = 1

// packageKey names the package tree of a configuration.
func packageKey(c config.Image, p aptPolicy) string {
	h := sha256.New()
	packages := treePackages(c)
	slices.Sort(packages)
	put(h, "packages", format, c.Suite, slices.Compact(packages), p.Mirror, excluded)
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// purpose names an image block: what is wanted, whatever comes of it today.
// place is the cloud that an image is built in.
func purpose(c config.Image, playbooks []string, place string) string {
	h := sha256.New()
	packages := slices.Sorted(slices.Values(c.Packages))
	put(h, "purpose", c.Suite, packages, playbooks, c.Vars, c.DiskGiB)
	if c.Cloud != nil {
		put(h, "cloud", place, c.Cloud)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// identity is the image's name: a hash over the versions of all packages, the
// playbooks with all files beside them, the variables and the programs.
func identity(packages []Package, c config.Image, playbooks []string, binaries string) (string, error) {
	h := sha256.New()
	put(h, "image", format, packages, c.Vars, c.DiskGiB)
	return ownIdentity(h, playbooks, binaries)
}

// cloudIdentity is that of an image that is built on a server. The versions of
// its packages are not known before, and not asked for: what is built once is
// kept until something else changes.
func cloudIdentity(s Source, c config.Image, playbooks []string, binaries string) (string, error) {
	h := sha256.New()
	packages := slices.Sorted(slices.Values(slices.Concat(basePackages, c.Packages)))
	put(h, "image in the cloud", format, s.ID, s.Checksum, c.Cloud.Flavor, slices.Compact(packages), c.Vars, prepare, finish)
	return ownIdentity(h, playbooks, binaries)
}

// ownIdentity adds the playbooks and programs to a hash, and ends it.
func ownIdentity(h hash.Hash, playbooks []string, binaries string) (string, error) {
	for _, p := range playbooks {
		put(h, "playbook", filepath.Base(p))
		if err := hashDir(h, filepath.Dir(p)); err != nil {
			return "", err
		}
	}
	programs, err := hashFiles(binaries, Programs)
	if err != nil {
		return "", err
	}
	put(h, "programs", programs)
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// put writes values so that no two lists of values give the same bytes.
func put(w io.Writer, values ...any) {
	if err := json.NewEncoder(w).Encode(values); err != nil {
		panic(fmt.Sprintf("image: %v can't be hashed: %v", values, err))
	}
}

// hashDir writes names, modes and contents of all files below dir. Roles,
// templates and files that a playbook uses stand beside it.
func hashDir(h hash.Hash, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			put(h, rel, "link", target)
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		put(h, rel, info.Mode().Perm()&0o111 != 0, info.Size())
		_, err = io.Copy(h, f)
		return err
	})
}
