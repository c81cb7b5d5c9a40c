# The example of cluster.hcl on OpenStack: five servers, of which one has a
# public address. `make demo CLOUD=mycloud` runs it; see docs/openstack.md.

variable "cloud" {
  description = "An entry of clouds.yaml; empty: what OS_CLOUD or the OS_* variables say"
  default     = ""
}

variable "flavor" {
  description = "Of all servers; 2 GiB of memory and 10 GiB of disk are enough"
  default     = "m1.medium"
}

variable "external_network" {
  description = "Where the public address comes from; empty: the only one there is"
  default     = ""
}

variable "ssh_allow" {
  description = "From where you log in; whoever does needs the cluster's own key"
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "image" {
  description = "One that the cloud has; empty: what plasmid image push made"
  default     = ""
}

cluster "demo-cloud" {
  provider "openstack" {
    cloud            = var.cloud
    flavor           = var.flavor
    image            = var.image
    external_network = var.external_network
    ssh_allow        = var.ssh_allow
    public_ports     = [80]
    network { cidr = "10.42.0.0/24" }
  }

  image {
    playbooks = ["playbooks/node.yml"] # add your own here
    vars      = { docker_log_max_size = "10m" }
  }

  # Users come in here, and so do you: it is the way to the others.
  nodes "front" {
    count       = 1
    etcd        = 0
    public_ipv4 = "floating"
    metadata    = { role = "front" }
  }

  nodes "core" {
    count       = 4
    etcd        = 3 # how many of them vote
    public_ipv4 = "none"
    metadata    = { role = "core" }
  }

  app "elk" { # or the smaller apps/hello
    source = "apps/elk"
    vars   = { front = { role = "front" } }
  }
}
