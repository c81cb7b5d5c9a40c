// Package local runs a cluster's machines on this host: each is a
// systemd-nspawn container that boots the image's tree, with a network
// namespace, an address and a disk of its own.
//
// DESIGN.md says how, and why so.
package local
