# Sinatra instances behind nginx, whose logs go by Lumberjack to a collector and
# from there into a store, and a page to look at them.

variable "instances" {
  description = "Sinatra instances"
  default     = 5
}

variable "visitors" {
  description = "how many make traffic; each waits pause between two requests"
  default     = 5
}

variable "pause" { default = "1s" }

variable "retention" {
  description = "how long events are kept"
  default     = "7d"
}

variable "front" {
  description = "metadata of the machines that nginx may be on; empty: of any"
  default     = {}
}

app "elk" {
  keys = {
    "/config/retention" = var.retention
    "/config/visitors"  = var.visitors
    "/config/pause"     = var.pause
  }

  # By it the collector and the forwarders know each other.
  certificate "lumberjack" {}

  image "store" {
    context  = "images/store"
    programs = ["confd", "elk"]
    files    = ["images/boot"]
  }
  image "collector" {
    context  = "images/collector"
    programs = ["confd", "elk"]
    files    = ["images/boot"]
  }
  image "sinatra" {
    context  = "images/sinatra"
    programs = ["confd", "elk"]
    files    = ["images/boot"]
  }
  image "nginx" {
    context  = "images/nginx"
    programs = ["confd"]
    files    = ["images/boot"]
  }
  image "traffic" {
    context  = "images/traffic"
    programs = ["confd", "elk"]
    files    = ["images/boot"]
  }

  unit "store.service" { file = "units/store.service" }

  unit "collector.service" {
    file  = "units/collector.service"
    after = ["store.service"]
  }

  unit "sinatra@.service" {
    file  = "units/sinatra@.service"
    count = var.instances
    after = ["collector.service"]
  }

  unit "nginx.service" {
    file     = "units/nginx.service"
    after    = ["sinatra@.service"]
    metadata = var.front
  }

  unit "traffic.service" {
    file  = "units/traffic.service"
    after = ["nginx.service"]
  }

  front {
    unit = "nginx.service"
    port = 80
    path = "/logs/"
  }
}
