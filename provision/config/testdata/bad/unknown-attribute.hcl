cluster "demo" {
  nodes "core" {
    count    = 3
    metdata  = { role = "core" }
  }
}
