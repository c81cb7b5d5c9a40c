package main

// suite is the release whose OpenStack (Zed) the lab runs. Later releases
// have dropped the linuxbridge agent, the only one that needs no kernel
// module beyond what any host has.
const suite = "bookworm"

// packages are what the lab's tree is made of, without recommended ones.
// nova-compute-lxc and the QEMU driver of libvirt give both kinds of guest
// without the emulators of every other architecture.
var packages = []string{
	// The tree itself and its network.
	"ca-certificates", "curl", "dnsmasq-base", "ebtables", "genisoimage", "iproute2", "ipset", "iptables",
	"netbase", "nftables", "openssh-client", "procps",
	// What all of OpenStack leans on.
	"mariadb-server", "mariadb-client", "rabbitmq-server", "python3-pymysql", "uwsgi-core", "uwsgi-plugin-python3",
	// OpenStack.
	"keystone", "glance-api", "placement-api",
	"nova-api", "nova-conductor", "nova-scheduler", "nova-compute", "nova-compute-lxc",
	"neutron-server", "neutron-linuxbridge-agent", "neutron-l3-agent", "neutron-dhcp-agent", "neutron-metadata-agent",
	"python3-openstackclient",
	// Guests.
	"libvirt-clients", "libvirt-daemon-driver-lxc", "libvirt-daemon-driver-qemu", "qemu-system-x86", "qemu-utils",
	"ipxe-qemu", "seabios",
}
