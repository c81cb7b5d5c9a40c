cluster "demo" {
  provider "openstack" {
    flavor    = "m1.small"
    ssh_allow = ["203.0.113.0/24"]
    public_ports = [80, 22, 70000, 80]
  }
  nodes "core" { count = 1 }
}
