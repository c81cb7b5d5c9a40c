package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"plasmid/runtime/client"
	"plasmid/runtime/drain"
	"plasmid/runtime/node"
	"plasmid/runtime/reboot"
	"plasmid/runtime/store"
	"plasmid/runtime/systemd"
)

// rebooter wires this machine's side of the reboot lock. What units that are to
// leave wait for is asked of its own API, which knows who leads.
func rebooter(c *node.Config, policy reboot.Policy, m store.Machine, st *store.Store, mirror *store.Mirror, sysd *systemd.Manager, log *slog.Logger) (*reboot.Node, error) {
	own, err := client.New(client.Config{Endpoints: []string{"unix://" + node.Socket}})
	if err != nil {
		return nil, err
	}
	return reboot.New(reboot.Config{
		Machine: m.ID, Name: m.Name, Boot: m.BootID, Policy: policy,
		Lock: st, Mirror: mirror, System: host{reboot.Host{Root: "/"}, sysd},
		Drainer: &drain.Drainer{Machine: m.ID, Store: st, Mirror: mirror, Waiting: own.Waiting},
		Safe:    func(ctx context.Context) error { return st.SafeWithout(ctx, c.Name) },
		Well:    func(ctx context.Context) error { return well(ctx, m, st, mirror, sysd) },
		Dir:     node.StateDir, Logger: log,
	}), nil
}

// host is this machine's files and its systemd.
type host struct {
	reboot.Host
	sysd *systemd.Manager
}

func (h host) Reboot(ctx context.Context) error { return h.sysd.Reboot(ctx) }

// well says what is amiss with this machine after a boot: nil when the boot
// has ended, the machine reports to the cluster and its etcd member, if it has
// one, answers.
func well(ctx context.Context, m store.Machine, st *store.Store, mirror *store.Mirror, sysd *systemd.Manager) error {
	if have, ok := mirror.View().Machines[m.ID]; !ok || have.BootID != m.BootID {
		return errors.New("it does not report to the cluster yet")
	}
	state, err := sysd.SystemState(ctx)
	switch {
	case err != nil:
		return err
	case state != "running" && state != "degraded":
		return fmt.Errorf("systemd is still %s", state)
	}
	return st.MemberWell(ctx, m.Name)
}
