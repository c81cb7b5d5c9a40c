package provision

import (
	"fmt"

	"plasmid/provision/config"
	"plasmid/provision/plan"
)

// Wanted lists the machines that a cluster file asks for. In every group the
// first machines are the etcd members.
func Wanted(c *config.Cluster, image string) []plan.Machine {
	var ms []plan.Machine
	for _, g := range c.Nodes {
		for i := range g.Count {
			ms = append(ms, plan.Machine{
				Name:       fmt.Sprintf("%s-%s-%d", c.Name, g.Name, i+1),
				Group:      g.Name,
				Image:      image,
				Shape:      c.Shape(g),
				Etcd:       i < g.Etcd,
				PublicIPv4: g.PublicIPv4,
				Metadata:   g.Metadata,
				CPUs:       g.CPUs,
				MemoryMiB:  g.MemoryMiB,
			})
		}
	}
	return ms
}
