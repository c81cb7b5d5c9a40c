package openstack

import (
	"encoding/json"
	"fmt"

	"plasmid/provision/config"
)

// maxUserData is how much of it Nova takes, encoded as base64:
// https://docs.openstack.org/nova/latest/user/metadata.html#user-provided-data
const maxUserData = 65535

// cloudConfig is cloud-init's own format, which is YAML, and so JSON too.
type cloudConfig struct {
	SSHKeys []string   `json:"ssh_authorized_keys,omitempty"`
	Boot    [][]string `json:"bootcmd,omitempty"`
}

// metadataGuard keeps containers, and all who are not root, from the cloud's
// metadata service, which tells whoever asks what the machine was told.
// cloud-init, which is root, asks it where there is no config drive. The first
// two lines make the whole replace what an earlier boot step set.
const metadataGuard = `table inet plasmid_metadata
delete table inet plasmid_metadata
table inet plasmid_metadata {
	chain forward {
		type filter hook forward priority -10
		ip daddr 169.254.169.254 reject
		ip6 daddr fe80::a9fe:a9fe reject
	}
	chain output {
		type filter hook output priority -10
		meta skuid != 0 ip daddr 169.254.169.254 reject
		meta skuid != 0 ip6 daddr fe80::a9fe:a9fe reject
	}
}
`

// userData is what a machine is told beside its metadata: who may log in.
// There are no secrets in it: whoever reads the metadata service, or asks
// Nova, sees it. private, if not empty, is the MAC address of a NIC that must
// not become the way out.
func userData(sshKeys []string, private string) []byte {
	c := cloudConfig{SSHKeys: sshKeys, Boot: [][]string{{"nft", metadataGuard}}}
	if private != "" {
		// The name sorts before those that netplan gives.
		c.Boot = append(c.Boot, []string{"sh", "-c", fmt.Sprintf(
			`printf '[Match]\nMACAddress=%s\n[Network]\nDHCP=ipv4\n[DHCPv4]\nUseGateway=no\nUseRoutes=no\n' >/etc/systemd/network/05-plasmid-private.network && networkctl reload`, private)})
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		panic("openstack: " + err.Error()) // strings can always be encoded
	}
	return append([]byte("#cloud-config\n"), append(data, '\n')...)
}

// privateNIC is the MAC address of a machine's private NIC where it has a
// public one too, and the private network has a gateway of its own.
func privateNIC(o *config.OpenStack, g config.NodeGroup, private port) string {
	if !o.TwoNICs(g) {
		return ""
	}
	return private.MAC
}
