cluster "demo" {
  nodes "core" {
    count = 3
    etcd  = 0
  }
}
