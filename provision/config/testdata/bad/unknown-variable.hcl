variable "machines" { default = 3 }
cluster "demo" {
  nodes "core" { count = var.machine }
}
