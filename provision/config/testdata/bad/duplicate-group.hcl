cluster "demo" {
  nodes "core" { count = 1 }
  nodes "core" { count = 2 }
}
