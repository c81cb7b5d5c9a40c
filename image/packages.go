package image

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"plasmid/provision/config"
)

// basePackages are in every image.
var basePackages = []string{
	"systemd", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "dbus", "udev",
	"libpam-systemd", "libnss-systemd", "polkitd",
	"iproute2", "iptables", "nftables", "iputils-ping", "netbase", "ca-certificates", "curl",
	"docker.io", "docker-cli", "etcd-server", "etcd-client",
	"openssh-server", "cloud-init", "cloud-guest-utils", "python3", "python3-apt",
	"sudo", "procps", "kmod", "less", "tzdata", "e2fsprogs", "fdisk", "zstd",
}

// bootPackages make a tree boot. They are in the tree too, so that it and the
// qcow2 hold the same files; an image that is built on a server has its own.
var bootPackages = []string{
	"linux-image-cloud-amd64", "initramfs-tools",
	"grub-common", "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin",
}

// treePackages are in every tree, with those of the image block.
func treePackages(c config.Image) []string {
	return slices.Concat(basePackages, bootPackages, c.Packages)
}

// excluded from every package: what only people at a desk read.
var excluded = []string{
	"path-exclude=/usr/share/man/*",
	"path-exclude=/usr/share/info/*",
	"path-exclude=/usr/share/locale/*",
	"path-exclude=/usr/share/doc/*",
	"path-include=/usr/share/doc/*/copyright",
}

// Package is an installed Debian package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	Source  string `json:"source,omitempty"`
	SizeKiB int    `json:"sizeKiB,omitempty"`
}

// installed reads the tree's dpkg status, sorted by name.
func installed(tree string) ([]Package, error) {
	f, err := os.Open(filepath.Join(tree, "var/lib/dpkg/status"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readStatus(f)
}

// readStatus reads a file as dpkg keeps it of what is installed.
func readStatus(f io.Reader) ([]Package, error) {
	var ps []Package
	var p Package
	ok := false
	flush := func() {
		if ok && p.Name != "" {
			ps = append(ps, p)
		}
		p, ok = Package{}, false
	}
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if s.Text() == "" {
			flush()
			continue
		}
		k, v, _ := strings.Cut(s.Text(), ": ")
		switch k {
		case "Package":
			p.Name = v
		case "Version":
			p.Version = v
		case "Architecture":
			p.Arch = v
		case "Source":
			p.Source = v
		case "Status":
			ok = v == "install ok installed" || v == "hold ok installed"
		case "Installed-Size":
			fmt.Sscan(v, &p.SizeKiB)
		}
	}
	flush()
	slices.SortFunc(ps, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return ps, s.Err()
}
