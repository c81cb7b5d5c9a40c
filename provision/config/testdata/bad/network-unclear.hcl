cluster "demo" {
  provider "openstack" {
    flavor = "m1.small"
    network {
      cidr = "10.1.0.0/24"
      name = "existing"
    }
  }
  nodes "core" { count = 1 }
}
