cluster "demo" {
  nodes "core" { count = "some" }
}
