cluster "demo" {
  provider "openstack" {
    flavor    = "m1.small"
    ssh_allow = ["203.0.113.7/24"]
  }
  nodes "core" { count = 1 }
}
