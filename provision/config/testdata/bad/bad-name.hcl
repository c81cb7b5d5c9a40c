cluster "Demo_1" {
  nodes "core" { count = 1 }
}
