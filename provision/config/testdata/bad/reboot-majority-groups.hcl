cluster "demo" {
  nodes "a" {
    count = 2
    etcd  = 2
    reboot {}
  }
  nodes "b" {
    count = 1
    etcd  = 1
    reboot {}
  }
}
