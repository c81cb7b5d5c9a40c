package configdrive

import (
	"fmt"
	"strings"
	"testing"
)

func TestFiles(t *testing.T) {
	m := Machine{UUID: "u", Name: "demo-core-1", Cluster: "demo", MAC: "02:00:00:00:00:01",
		Address: "10.42.0.11", Netmask: "255.255.255.0", Gateway: "10.42.0.1", PublicIPv4: "203.0.113.7", SSHKeys: []string{"ssh-ed25519 AAAA op"}}
	files := m.Files()
	for name, want := range map[string]string{
		"openstack/latest/meta_data.json": `{
  "uuid": "u",
  "name": "demo-core-1",
  "hostname": "demo-core-1",
  "public_keys": {
    "a0": "ssh-ed25519 AAAA op"
  },
  "meta": {
    "plasmid_cluster": "demo",
    "plasmid_public_ipv4": "203.0.113.7"
  }
}
`,
		"openstack/latest/network_data.json": `{
  "links": [
    {
      "id": "host0",
      "type": "phy",
      "ethernet_mac_address": "02:00:00:00:00:01",
      "mtu": 1500
    }
  ],
  "networks": [
    {
      "id": "private",
      "type": "ipv4",
      "link": "host0",
      "ip_address": "10.42.0.11",
      "netmask": "255.255.255.0",
      "routes": [
        {
          "network": "0.0.0.0",
          "netmask": "0.0.0.0",
          "gateway": "10.42.0.1"
        }
      ]
    }
  ],
  "services": []
}
`,
		"openstack/latest/user_data": UserData,
	} {
		if got := string(files[name]); got != want {
			t.Errorf("%s:\n%s", name, got)
		}
		delete(files, name)
	}
	for name := range files {
		t.Errorf("unexpected %s", name)
	}
}

func TestManyKeys(t *testing.T) {
	var m Machine
	for i := range 60 {
		m.SSHKeys = append(m.SSHKeys, fmt.Sprintf("ssh-ed25519 KEY-%d.", i))
	}
	meta := string(m.Files()["openstack/latest/meta_data.json"])
	for _, k := range m.SSHKeys {
		if !strings.Contains(meta, k) {
			t.Errorf("%s is lost", k)
		}
	}
	if strings.Contains(meta, "plasmid_public_ipv4") {
		t.Error("it has a public address")
	}
}
