package member

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Port at which clients reach MariaDB; the members' own are 4567 (replication),
// 4568 (what a member missed) and 4444 (whole copies).
const Port = 3306

const (
	runDir  = "/run/galera"
	socket  = runDir + "/mysqld.sock"
	caFile  = runDir + "/ca.crt"
	keyFile = runDir + "/member.key"
	cnfFile = runDir + "/my.cnf"
)

// Settings are what a member's configuration is made of.
type Settings struct {
	ID      string
	Address string
	Name    string // of the cluster
	Data    string // directory
}

// render writes my.cnf. peers are the members to join; none to start the
// cluster.
func (s Settings) render(peers []string) string {
	options := strings.Join([]string{
		"gmcast.listen_addr=ssl://" + net.JoinHostPort(s.Address, "4567"),
		"ist.recv_bind=ssl://" + net.JoinHostPort(s.Address, "4568"),
		"socket.ssl_ca=" + caFile, "socket.ssl_cert=" + caFile, "socket.ssl_key=" + keyFile,
		// Who starts the cluster is decided in one place, which is not this.
		"pc.recovery=no",
		"pc.wait_prim_timeout=PT15S",
		"gcache.size=128M",
	}, "; ")
	var b strings.Builder
	section := func(name string, lines ...string) { fmt.Fprintf(&b, "[%s]\n%s\n\n", name, strings.Join(lines, "\n")) }
	section("mariadbd",
		"user = mysql",
		"datadir = "+s.Data,
		"socket = "+socket,
		"pid-file = "+runDir+"/mysqld.pid",
		"bind-address = "+s.Address,
		"port = "+strconv.Itoa(Port),
		"skip-name-resolve",
		"skip-log-bin",
		"character-set-server = utf8mb4",
		"ssl-ca = "+caFile, "ssl-cert = "+caFile, "ssl-key = "+keyFile,
		"# Galera needs these three.",
		"binlog_format = ROW",
		"default_storage_engine = InnoDB",
		"innodb_autoinc_lock_mode = 2",
		"# An acknowledged write is on this member's disk.",
		"innodb_flush_log_at_trx_commit = 1",
		"wsrep_on = ON",
		"wsrep_provider = /usr/lib/galera/libgalera_smm.so",
		"wsrep_cluster_name = "+s.Name,
		"wsrep_cluster_address = gcomm://"+strings.Join(peers, ","),
		"wsrep_node_name = "+s.ID,
		"wsrep_node_address = "+s.Address,
		"wsrep_node_incoming_address = "+net.JoinHostPort(s.Address, strconv.Itoa(Port)),
		"wsrep_sst_method = mariabackup",
		"wsrep_sst_auth = mysql:",
		`wsrep_provider_options = "`+options+`"`,
	)
	section("sst", "encrypt = 4", "tca = "+caFile, "tcert = "+caFile, "tkey = "+keyFile, "sockopt = bind="+s.Address)
	section("client", "socket = "+socket)
	return b.String()
}
