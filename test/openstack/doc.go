// Package openstack tests the OpenStack provider against a real OpenStack
// whose servers are imagined: every API is real, see test/lab/openstack. It
// runs in the lab's network: make test-openstack.
package openstack
