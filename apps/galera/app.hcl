# A MariaDB Galera cluster that makes, joins and recovers itself. Each member
# is on a machine of its own and keeps its data there.

variable "members" { default = 3 }

app "galera" {
  image "mariadb" {
    context  = "image"
    programs = ["galera"]
  }

  unit "galera@.service" {
    file  = "units/galera@.service"
    count = var.members
  }
}
