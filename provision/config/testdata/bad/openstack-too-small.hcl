cluster "demo" {
  provider "openstack" {
    flavor    = "m1.small"
    ssh_allow = ["203.0.113.0/24"]
    network { cidr = "10.1.0.0/27" }
  }
  nodes "core" { count = 30 }
}
