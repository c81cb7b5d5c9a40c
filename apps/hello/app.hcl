# Five Sinatra instances, and an nginx that finds them through etcd.

variable "instances" { default = 5 }

variable "front" {
  description = "metadata of the machines that nginx may be on; empty: of any"
  default     = {}
}

app "hello" {
  image "sinatra" { context = "sinatra" }
  image "nginx" {
    context  = "nginx"
    programs = ["confd"]
  }

  unit "sinatra@.service" {
    file  = "units/sinatra@.service"
    count = var.instances
  }

  unit "nginx.service" {
    file     = "units/nginx.service"
    after    = ["sinatra@.service"]
    metadata = var.front
  }

  front {
    unit = "nginx.service"
    port = 80
  }
}
