# The example cluster: five machines and an app. `make demo` runs it; the same on
# OpenStack is in openstack.hcl.

cluster "demo" {
  provider "local" {}

  image {
    playbooks = ["playbooks/node.yml"] # add your own here
    vars      = { docker_log_max_size = "10m" }
  }

  nodes "core" {
    count    = 5
    etcd     = 3 # how many of them vote
    metadata = { role = "core" }
  }

  app "elk" { source = "apps/elk" } # or the smaller apps/hello
}
