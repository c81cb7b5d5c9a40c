cluster "demo" {
  provider "openstack" {
    flavor    = "m1.small"
    ssh_allow = []
  }
  nodes "core" { count = 1 }
}
