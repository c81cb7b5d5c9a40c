cluster "demo" {
  provider "openstack" {
    flavor    = "m1.small"
    ssh_allow = ["203.0.113.0/24"]
    availability_zones = ["az1", "az1"]
  }
  nodes "core" { count = 1 }
}
