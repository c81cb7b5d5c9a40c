cluster "demo" {}
