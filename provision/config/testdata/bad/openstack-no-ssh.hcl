cluster "demo" {
  provider "openstack" {
    flavor = "m1.small"
  }
  nodes "core" { count = 1 }
}
