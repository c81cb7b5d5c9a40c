cluster "c" {
  provider "openstack" {
    flavor    = "m1.medium"
    ssh_allow = ["203.0.113.0/24"]
  }
  image { build = "cloud" }
  nodes "core" { count = 1 }
}
