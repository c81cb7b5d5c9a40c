cluster "demo" {
  reboot {
    window = "04:00"
    length = "36h"
  }
  nodes "core" { count = 1 }
}
