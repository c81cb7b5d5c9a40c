cluster "c" {
  image {
    build  = "cloud"
    source = "debian-13"
  }
  nodes "core" { count = 1 }
}
