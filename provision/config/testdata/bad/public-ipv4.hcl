cluster "demo" {
  nodes "core" {
    count       = 1
    public_ipv4 = "flaoting"
  }
}
