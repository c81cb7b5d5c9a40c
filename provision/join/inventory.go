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
	gates, err := a.gates()
	if err != nil {
		return nil, err
	}
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
		host, way := a.way(m, gates)
		hostvars[m.Name] = map[string]any{
			"ansible_host":                 host,
			"ansible_user":                 LoginUser,
			"ansible_ssh_private_key_file": a.file("ssh_ed25519"),
			"ansible_ssh_common_args":      strings.Join(append(a.sshOptions(), way...), " "),
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

// way is the address by which ssh(1) reaches a machine, and the options that it
// needs for that: by way of a gate, to what has no public address.
func (a *Access) way(m plan.Observed, gates []gate) (host string, options []string) {
	for _, g := range gates {
		if g.Name == m.Name {
			return m.PublicIPv4, nil
		}
	}
	if len(gates) == 0 {
		return m.PrivateIPv4, nil
	}
	gate, port, _ := net.SplitHostPort(gates[0].Address)
	through := fmt.Sprintf("ssh -i %s %s -p %s -W %%h:%%p %s@%s", a.file("ssh_ed25519"), strings.Join(a.sshOptions(), " "), port, LoginUser, gate)
	return m.PrivateIPv4, []string{fmt.Sprintf("-o ProxyCommand=%q", through)}
}
