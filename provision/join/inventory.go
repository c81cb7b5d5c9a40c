package join

import (
	"fmt"
	"maps"
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
func (a *Access) Inventory(machines []plan.Observed, members []plan.Member) Inventory {
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
		hostvars[m.Name] = map[string]any{
			"ansible_host":                 m.PrivateIPv4,
			"ansible_user":                 LoginUser,
			"ansible_ssh_private_key_file": a.file("ssh_ed25519"),
			"ansible_ssh_common_args":      fmt.Sprintf("-o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes", a.file("known_hosts")),
			"ansible_python_interpreter":   "/usr/bin/python3",
			"plasmid_image":                m.Image,
			"plasmid_group":                m.Group,
		}
	}
	inv := Inventory{"_meta": map[string]any{"hostvars": hostvars}}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		inv[g] = inventoryGroup{groups[g]}
	}
	return inv
}
