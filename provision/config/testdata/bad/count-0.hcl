cluster "demo" {
  nodes "core" { count = 0 }
}
