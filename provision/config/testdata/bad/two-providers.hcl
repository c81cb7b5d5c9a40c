cluster "demo" {
  provider "local" {}
  nodes "core" { count = 1 }
}
provider "openstack" { flavor = "m1.small" }
