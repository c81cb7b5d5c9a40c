cluster "c" {
  image { build = "clout" }
  nodes "core" { count = 1 }
}
