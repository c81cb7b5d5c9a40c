cluster "a" {
  nodes "core" { count = 1 }
}
cluster "b" {
  nodes "core" { count = 1 }
}
