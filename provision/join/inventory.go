package join

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"plasmid/provision/plan"
)

// Inventory is what a dynamic inventory prints for Ansible: groups by name,
// and the variables of hosts under "_meta". The format is documented in
// Ansible's developer guide on dynamic inventory.
type Inventory map[string]any

type inventoryGroup struct {
	Hosts []string `json:"hosts"`
}

// Inventory lists the machines by node group, and the etcd members in a group
// "etcd". A machine without an address is left out.
func (a *Access) Inventory(machines []plan.Observed, members []plan.Member) (Inventory, error) {
	voters := map[string]bool{}
	for _, m := range members {
		voters[m.Name] = m.Etcd
	}
	groups := map[string][]string{}
	hostvars := map[string]map[string]any{}
	for _, m := range machines {
		if m.PrivateIPv4 == "" {
			continue
		}
		// Ansible allows no hyphens in the names of groups.
		group := strings.ReplaceAll(m.Group, "-", "_")
		groups[group] = append(groups[group], m.Name)
		if voters[m.Name] {
			groups["etcd"] = append(groups["etcd"], m.Name)
		}
		host, proxy, err := a.Way(m.Name, m.PrivateIPv4)
		if err != nil {
			return nil, err
		}
		options := a.sshOptions()
		if proxy != "" {
			options = append(options, fmt.Sprintf("-o ProxyCommand=%q", proxy))
		}
		hostvars[m.Name] = map[string]any{
			"ansible_host":                 host,
			"ansible_user":                 LoginUser,
			"ansible_ssh_private_key_file": a.file("ssh_ed25519"),
			"ansible_ssh_common_args":      strings.Join(options, " "),
			"ansible_python_interpreter":   "/usr/bin/python3",
			"plasmid_image":                m.Image,
			"plasmid_group":                m.Group,
		}
	}
	inv := Inventory{"_meta": map[string]any{"hostvars": hostvars}}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		inv[g] = inventoryGroup{groups[g]}
	}
	return inv, nil
}

func (a *Access) sshOptions() []string {
	return []string{"-o UserKnownHostsFile=" + a.file("known_hosts"), "-o StrictHostKeyChecking=yes", "-o IdentitiesOnly=yes"}
}

// Way is the address by which ssh(1) reaches a machine that has an address on the
// machines' own network, and the command that goes there by way of a gate;
// empty for a direct way.
func (a *Access) Way(name, private string) (host, proxy string, err error) {
	gates, err := a.gates()
	if err != nil || len(gates) == 0 {
		return private, "", err
	}
	for _, g := range gates {
		if g.Name == name {
			host, _, err = net.SplitHostPort(g.Address)
			return host, "", err
		}
	}
	gate, port, err := net.SplitHostPort(gates[0].Address)
	return private, fmt.Sprintf("ssh -i %s %s -p %s -W %%h:%%p %s@%s", a.file("ssh_ed25519"), strings.Join(a.sshOptions(), " "), port, LoginUser, gate), err
}
