cluster "c" {
  image { source = "debian-13" }
  nodes "core" { count = 1 }
}
