cluster "demo" {
  provider "openstack" {
    flavor    = ""
    ssh_allow = ["203.0.113.0/24"]
  }
  nodes "core" { count = 1 }
}
