package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
)

// Facts are what a machine knows of itself at boot.
type Facts struct {
	Name        string
	Cluster     string
	PrivateIPv4 string
	PublicIPv4  string // the private one where there is no other
}

const (
	environmentFile = "/etc/environment"
	// instanceData is cloud-init's account of the machine, the same for a
	// config drive and for a metadata service.
	instanceData = "/run/cloud-init/instance-data.json"
)

// MachineID is systemd's name for the machine, 32 hex digits.
func MachineID() (string, error) {
	data, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(data))
	if len(id) != 32 {
		return "", fmt.Errorf("/etc/machine-id holds %q, which is no machine ID; empty the file and reboot", id)
	}
	return id, nil
}

// GatherFacts asks the system. Without cloud-init's data the cluster's name is
// empty and the public address is the private one.
func GatherFacts() (Facts, error) {
	name, err := os.Hostname()
	if err != nil {
		return Facts{}, err
	}
	private, err := privateAddress()
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Name: name, PrivateIPv4: private, PublicIPv4: private}
	data, err := os.ReadFile(instanceData)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	return f, f.fromInstanceData(data)
}

// fromInstanceData takes what Plasmid wrote into the machine's metadata.
func (f *Facts) fromInstanceData(data []byte) error {
	var d struct {
		DS struct {
			MetaData struct {
				Meta map[string]string `json:"meta"`
			} `json:"meta_data"`
		} `json:"ds"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("%s: %w", instanceData, err)
	}
	meta := d.DS.MetaData.Meta
	f.Cluster = meta["plasmid_cluster"]
	// A machine with two NICs can't tell by itself which is which.
	if err := address(meta, "plasmid_private_ipv4", &f.PrivateIPv4); err != nil {
		return err
	}
	f.PublicIPv4 = f.PrivateIPv4
	return address(meta, "plasmid_public_ipv4", &f.PublicIPv4)
}

// address takes an address from metadata, if it is there.
func address(meta map[string]string, key string, to *string) error {
	ip := meta[key]
	if ip == "" {
		return nil
	}
	if net.ParseIP(ip).To4() == nil {
		return fmt.Errorf("%s: %s %q is no IPv4 address", instanceData, key, ip)
	}
	*to = ip
	return nil
}

// privateAddress is the address that the machine would speak from.
func privateAddress() (string, error) {
	// Connecting a datagram socket sends nothing: it asks for the route.
	c, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return "", fmt.Errorf("this machine has no IPv4 address with a default route: %w", err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// WriteFacts puts the facts into /etc/environment, where units find them by
// EnvironmentFile=.
func WriteFacts(f Facts) error {
	old, err := os.ReadFile(environmentFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err = writeFile(environmentFile, []byte(merge(string(old), f)), 0o644, 0, 0)
	return err
}

// merge replaces our lines and keeps all others.
func merge(old string, f Facts) string {
	ours := [][2]string{
		{"COREOS_PRIVATE_IPV4", f.PrivateIPv4},
		{"COREOS_PUBLIC_IPV4", f.PublicIPv4},
		{"PLASMID_PRIVATE_IPV4", f.PrivateIPv4},
		{"PLASMID_PUBLIC_IPV4", f.PublicIPv4},
		{"PLASMID_NAME", f.Name},
		{"PLASMID_CLUSTER", f.Cluster},
	}
	var b strings.Builder
lines:
	for line := range strings.Lines(old) {
		for _, o := range ours {
			if strings.HasPrefix(line, o[0]+"=") {
				continue lines
			}
		}
		b.WriteString(line)
		if !strings.HasSuffix(line, "\n") {
			b.WriteByte('\n')
		}
	}
	for _, o := range ours {
		fmt.Fprintf(&b, "%s=%s\n", o[0], o[1])
	}
	return b.String()
}
