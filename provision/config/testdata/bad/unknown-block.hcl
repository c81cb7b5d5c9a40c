cluster "demo" {
  imag { suite = "testing" }
  nodes "core" { count = 3 }
}
