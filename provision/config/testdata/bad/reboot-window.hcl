cluster "demo" {
  reboot { window = "Thurs 04:00" }
  nodes "core" { count = 1 }
}
