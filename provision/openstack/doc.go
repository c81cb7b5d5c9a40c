// Package openstack makes a cluster's machines in a project of an OpenStack
// cloud: servers with their network, addresses and rules.
//
// DESIGN.md says how, and why so.
package openstack
