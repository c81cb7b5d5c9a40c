cluster "demo" {
  nodes "core" {
    count = 4
    etcd  = 2
  }
}
