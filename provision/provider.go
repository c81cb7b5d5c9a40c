// Package provision makes the machines of a cluster and makes them a cluster.
package provision

import (
	"context"

	"golang.org/x/crypto/ssh"

	"plasmid/provision/plan"
)

// Provider makes machines. What it changes and deletes is only what it made
// for this cluster.
type Provider interface {
	// Observe finds what there is of the cluster.
	Observe(ctx context.Context) (network bool, machines []plan.Observed, err error)
	// Do carries out a step of kind network or machine. It may have been
	// begun before and cut off.
	Do(ctx context.Context, s plan.Step) error
	// HostKey returns the SSH host key of a machine, learned on a way that
	// nobody between can change. It waits until the machine has made one.
	HostKey(ctx context.Context, machine string) (ssh.PublicKey, error)
	// Sweep lists everything that is left of the cluster, one sentence each.
	Sweep(ctx context.Context) ([]string, error)
}

// Refiner is a provider that carries out plans in smaller steps, of kinds of
// its own.
type Refiner interface {
	// Refine returns the plan with the provider's steps in it. It builds upon
	// what Observe saw last. No machine is wanted where all is to go.
	Refine(in plan.Input, p plan.Plan) plan.Plan
}

// Checker is a provider that can tell beforehand whether a plan would be
// refused.
type Checker interface {
	// Preflight says what a plan uses of the quota, one line each. The error is
	// of all that is in the way, each with its remedy.
	Preflight(ctx context.Context, p plan.Plan) (uses []string, err error)
}

// Joiner makes machines members of the cluster.
type Joiner interface {
	// Members lists the machines that have been joined.
	Members(ctx context.Context) ([]plan.Member, error)
	// Do carries out a step of kind member.
	Do(ctx context.Context, s plan.Step) error
}
