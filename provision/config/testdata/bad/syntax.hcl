cluster "demo" {
  nodes "core" { count = }
}
