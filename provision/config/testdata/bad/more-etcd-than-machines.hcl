cluster "demo" {
  nodes "core" {
    count = 1
    etcd  = 3
  }
}
