# The cluster of make test-openstack-full.

variable "machines" { default = 1 }

cluster "full" {
  provider "openstack" {
    flavor           = "m1.small"
    external_network = "ext-net"
    ssh_allow        = ["172.24.4.0/24"]
    network { cidr = "10.78.0.0/24" }
  }
  nodes "core" { count = var.machines }
}
