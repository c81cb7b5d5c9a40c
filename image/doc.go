// Package image builds the node image: a tree of Debian Testing with the
// playbooks applied, which local machines run from, and the same tree as a
// bootable qcow2 for OpenStack. Nothing is booted on the way. Or it is built on a
// server in a cloud, by the same playbooks and checks: BuildInCloud.
//
// An image is named by its identity, a hash over everything that went in, so
// the same input is never built twice.
package image
