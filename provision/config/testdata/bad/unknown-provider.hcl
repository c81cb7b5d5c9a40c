cluster "demo" {
  provider "openstak" {}
  nodes "core" { count = 3 }
}
