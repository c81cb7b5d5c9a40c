cluster "demo" {
  nodes "core" {
    count  = 1
    flavor = "m1.small"
  }
}
