cluster "demo" {
  provider "local" { cidr = "10.42.0.7/24" }
  nodes "core" { count = 1 }
}
