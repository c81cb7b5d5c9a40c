cluster "demo" {
  nodes "core" { count = lenght("abc") }
}
