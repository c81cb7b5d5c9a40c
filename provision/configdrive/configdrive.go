// Package configdrive makes the files of an OpenStack config drive, by which a
// machine learns its name, its network and who may log in.
//
// The format is OpenStack's, see its documentation on config drives and on
// network_data.json.
package configdrive

import "encoding/json"

// Machine is what a machine is told at first boot. There are no secrets in it.
type Machine struct {
	UUID       string
	Name       string
	Cluster    string
	MAC        string
	Address    string // dotted quad
	Netmask    string // dotted quad
	Gateway    string
	PublicIPv4 string   // empty: the private address is the public one
	SSHKeys    []string // authorized_keys lines
}

type metaData struct {
	UUID       string            `json:"uuid"`
	Name       string            `json:"name"`
	Hostname   string            `json:"hostname"`
	PublicKeys map[string]string `json:"public_keys"`
	Meta       map[string]string `json:"meta"`
}

type networkData struct {
	Links    []link    `json:"links"`
	Networks []network `json:"networks"`
	Services []string  `json:"services"`
}

type link struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	MAC  string `json:"ethernet_mac_address"`
	MTU  int    `json:"mtu"`
}

type network struct {
	ID      string  `json:"id"`
	Type    string  `json:"type"`
	Link    string  `json:"link"`
	Address string  `json:"ip_address"`
	Netmask string  `json:"netmask"`
	Routes  []route `json:"routes"`
}

type route struct {
	Network string `json:"network"`
	Netmask string `json:"netmask"`
	Gateway string `json:"gateway"`
}

// UserData is the same for all machines: what a node is made of is in its
// image.
const UserData = "#cloud-config\n{}\n"

// Files returns the drive's files by their path on it.
func (m Machine) Files() map[string][]byte {
	keys := map[string]string{}
	for i, k := range m.SSHKeys {
		keys[string(rune('a'+i%26))+string(rune('0'+i/26%10))] = k
	}
	meta := map[string]string{"plasmid_cluster": m.Cluster}
	if m.PublicIPv4 != "" {
		meta["plasmid_public_ipv4"] = m.PublicIPv4
	}
	return map[string][]byte{
		"openstack/latest/meta_data.json": encode(metaData{m.UUID, m.Name, m.Name, keys, meta}),
		"openstack/latest/user_data":      []byte(UserData),
		"openstack/latest/network_data.json": encode(networkData{
			Links: []link{{"host0", "phy", m.MAC, 1500}},
			Networks: []network{{"private", "ipv4", "host0", m.Address, m.Netmask,
				[]route{{"0.0.0.0", "0.0.0.0", m.Gateway}}}},
			Services: []string{},
		}),
	}
}

func encode(v any) []byte {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("configdrive: " + err.Error()) // these types can always be encoded
	}
	return append(data, '\n')
}
