cluster "demo" {
  image { playbooks = ["missing.yml"] }
  nodes "core" { count = 1 }
}
