# The cluster of make test-openstack-full whose image is built in the cloud.

variable "mirror" { default = "" }

cluster "full-cloud" {
  provider "openstack" {
    flavor           = "m1.small"
    external_network = "ext-net"
    ssh_allow        = ["172.24.4.0/24"]
    network { cidr = "10.79.0.0/24" }
  }
  image {
    build             = "cloud"
    source            = "debian"
    mirror            = var.mirror
    check_valid_until = false
  }
  nodes "core" { count = 1 }
}
