cluster "demo" {
  reboot {
    group    = "All machines"
    max      = 0
    length   = "2h"
    patience = "5s"
    drain    = "soon"
  }
  nodes "core" { count = 1 }
}
