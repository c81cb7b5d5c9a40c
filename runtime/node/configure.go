package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Bundle is what the operator sends to make a machine a member.
type Bundle struct {
	Config   Config            `json:"config"`
	CA       string            `json:"ca"` // PEM
	NodeCert string            `json:"nodeCert"`
	EtcdCert string            `json:"etcdCert,omitempty"` // of an etcd member
	Etcd     map[string]string `json:"etcd,omitempty"`     // ETCD_*; empty: no member
}

// Outcome is what Configure did.
type Outcome struct {
	Changed   []string `json:"changed"` // files
	Restarted []string `json:"restarted"`
}

// unattended-upgrades reads the last word on an option, by the files' names.
// It goes on saying that a reboot is required, and no longer does it itself,
// on all machines at once.
const (
	aptRebootFile = "/etc/apt/apt.conf.d/99plasmid-reboot"
	aptReboot     = "// Written when this machine was joined: plasmidd reboots it, one of a group after the other.\nUnattended-Upgrade::Automatic-Reboot \"false\";\n"
)

// Configure writes the bundle and starts, or restarts, the services that it
// changes anything for. Starting is not waited for: etcd is up only when
// enough of its peers are.
func Configure(ctx context.Context, b Bundle) (Outcome, error) {
	var o Outcome
	gid, err := etcdGroup()
	if err != nil {
		return o, err
	}
	config, err := json.MarshalIndent(b.Config, "", "  ")
	if err != nil {
		return o, err
	}
	type write struct {
		file, data string
		mode       os.FileMode
		gid        int
		service    string
	}
	writes := []write{
		{CAFile, b.CA, 0o644, 0, "plasmidd"},
		{CertFile, b.NodeCert, 0o644, 0, "plasmidd"},
		{ConfigFile, string(config) + "\n", 0o644, 0, "plasmidd"},
	}
	if b.Config.Reboot != nil {
		writes = append(writes, write{aptRebootFile, aptReboot, 0o644, 0, ""})
	} else if err := os.Remove(aptRebootFile); err == nil {
		o.Changed = append(o.Changed, aptRebootFile)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return o, err
	}
	if len(b.Etcd) > 0 {
		writes = append(writes,
			// etcd reads its certificate anew at each handshake.
			write{etcdCertFile, b.EtcdCert, 0o644, gid, ""},
			write{etcdEnvFile, environment(b.Etcd), 0o644, 0, "etcd"})
	}
	restart := map[string]bool{}
	for _, w := range writes {
		changed, err := writeFile(w.file, []byte(w.data), w.mode, 0, w.gid)
		if err != nil {
			return o, err
		}
		if changed {
			o.Changed = append(o.Changed, w.file)
			restart[w.service] = true
		}
	}
	services := []string{"plasmidd"}
	if len(b.Etcd) > 0 {
		services = []string{"etcd", "plasmidd"}
	}
	for _, s := range services {
		verb := "start"
		if restart[s] {
			verb = "restart"
			o.Restarted = append(o.Restarted, s)
		}
		for _, args := range [][]string{{"enable", "--quiet", s}, {verb, "--no-block", s}} {
			if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
				return o, fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, out)
			}
		}
	}
	return o, nil
}

// environment writes an EnvironmentFile, in an order that does not change.
func environment(vars map[string]string) string {
	var b strings.Builder
	b.WriteString("# Written when this machine was joined.\n")
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		fmt.Fprintf(&b, "%s=%q\n", k, vars[k])
	}
	return b.String()
}

// EtcdPeerName is the common name of every etcd member's certificate. No etcd
// user has this name.
const EtcdPeerName = "etcd"

// EtcdEnvironment is the configuration of an etcd member. cluster maps the
// names of all its members to their private addresses. It serves peers and
// clients on the private address, never on a public one.
func EtcdEnvironment(name, address string, cluster map[string]string, token string, isNew bool) map[string]string {
	var peers []string
	for _, n := range slices.Sorted(maps.Keys(cluster)) {
		peers = append(peers, fmt.Sprintf("%s=https://%s:2380", n, cluster[n]))
	}
	state := "existing"
	if isNew {
		state = "new"
	}
	return map[string]string{
		"ETCD_NAME":                        name,
		"ETCD_DATA_DIR":                    EtcdDataDir,
		"ETCD_LISTEN_PEER_URLS":            "https://" + address + ":2380",
		"ETCD_LISTEN_CLIENT_URLS":          "https://" + address + ":2379,https://127.0.0.1:2379",
		"ETCD_INITIAL_ADVERTISE_PEER_URLS": "https://" + address + ":2380",
		"ETCD_ADVERTISE_CLIENT_URLS":       "https://" + address + ":2379",
		"ETCD_INITIAL_CLUSTER":             strings.Join(peers, ","),
		"ETCD_INITIAL_CLUSTER_STATE":       state,
		"ETCD_INITIAL_CLUSTER_TOKEN":       token,
		"ETCD_STRICT_RECONFIG_CHECK":       "true",
		"ETCD_CERT_FILE":                   etcdCertFile,
		"ETCD_KEY_FILE":                    etcdKeyFile,
		"ETCD_TRUSTED_CA_FILE":             CAFile,
		"ETCD_CLIENT_CERT_AUTH":            "true",
		"ETCD_PEER_CERT_FILE":              etcdCertFile,
		"ETCD_PEER_KEY_FILE":               etcdKeyFile,
		"ETCD_PEER_TRUSTED_CA_FILE":        CAFile,
		"ETCD_PEER_CLIENT_CERT_AUTH":       "true",
		// Else every certificate of the cluster, an app's too, could take part
		// in raft.
		"ETCD_PEER_CERT_ALLOWED_CN":      EtcdPeerName,
		"ETCD_ENABLE_GRPC_GATEWAY":       "false",
		"ETCD_AUTO_COMPACTION_MODE":      "periodic",
		"ETCD_AUTO_COMPACTION_RETENTION": "1h",
		"ETCD_QUOTA_BACKEND_BYTES":       "2147483648",
		"ETCD_LOGGER":                    "zap",
		"ETCD_LOG_LEVEL":                 "warn",
	}
}
