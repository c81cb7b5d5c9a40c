variable "machines" {
  type    = number
  default = "many"
}
cluster "demo" {
  nodes "core" { count = var.machines }
}
