cluster "demo" {
  nodes "core" {}
}
