locals {
  a = local.b
  b = local.a
}
cluster "demo" {
  nodes "core" { count = 1 }
}
