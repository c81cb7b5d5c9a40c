cluster "demo" {
  nodes "core" { count = 1 }
  app "shop" { source = "apps/shop" }
}
