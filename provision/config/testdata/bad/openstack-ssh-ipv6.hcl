cluster "demo" {
  provider "openstack" {
    flavor    = "m1.small"
    ssh_allow = ["2001:db8::/32"]
  }
  nodes "core" { count = 1 }
}
