cluster "demo" {
  nodes "core" {
    count = 1
    reboot { windwo = "04:00" }
  }
}
