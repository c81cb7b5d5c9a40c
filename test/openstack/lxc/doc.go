// Package lxc tests a whole cluster on OpenStack: the machines are containers
// that Nova starts from the node image, and all else is as it is on any cloud.
// See test/lab/openstack for the cloud, and test/openstack for life cycles and
// failures, which need no machines that run.
package lxc
