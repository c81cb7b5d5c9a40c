cluster "demo" {
  lease = "1500ms"
  nodes "core" { count = 1 }
}
