cluster "demo" {
  reboot { max = 2 }
  nodes "core" {
    count = 5
    etcd  = 3
  }
}
