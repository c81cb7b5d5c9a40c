package join

import (
	"context"
	"net"
	"strconv"

	"plasmid/runtime/api"
	"plasmid/runtime/node"
)

// former are the IDs of silent machines that had a machine's name before it: its
// own, from before it was lost and made anew.
func former(machines []api.Machine, name, id string) []string {
	var ids []string
	for _, m := range machines {
		if m.Name == name && m.ID != id && !m.Alive {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// forgetFormer has the cluster forget what a machine was before it was made
// anew: it would be listed as silent for ever.
func (j *Joiner) forgetFormer(ctx context.Context, name, id, address string, etcd []string) error {
	c, err := j.Access.apiClientAt(net.JoinHostPort(address, strconv.Itoa(node.APIPort)))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	var machines []api.Machine
	if err := retry(ctx, func() error {
		machines, err = c.Machines(ctx)
		return err
	}); err != nil {
		return err
	}
	gone := former(machines, name, id)
	if len(gone) == 0 {
		return nil
	}
	s, err := j.Access.openStore(ctx, etcd)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, g := range gone {
		if err := retry(ctx, func() error { return s.ForgetMachine(ctx, g) }); err != nil {
			return err
		}
	}
	return nil
}
