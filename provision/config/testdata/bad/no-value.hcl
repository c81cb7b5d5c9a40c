variable "machines" {}
cluster "demo" {
  nodes "core" { count = var.machines }
}
