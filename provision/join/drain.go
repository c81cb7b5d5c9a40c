package join

import (
	"context"
	"errors"
	"fmt"
	"time"

	"plasmid/runtime/api"
	"plasmid/runtime/client"
)

// drainPatience is how long a machine that is drained may have no unit fewer.
// It is as long as a unit may take to be ready elsewhere, its image included.
const drainPatience = 5 * time.Minute

// drainer is what draining needs of the cluster's API.
type drainer interface {
	Machines(ctx context.Context) ([]api.Machine, error)
	Order(ctx context.Context, machine string, o api.Order) error
	AwaitDrained(ctx context.Context, machines map[string]bool, tell func(left int)) error
}

// drain moves the units of a machine that is about to leave to others, one at a
// time and each until it is ready there. Those that can't run anywhere else go
// down with the machine. One that is silent has none that could be moved, and a
// cluster whose API is away moves none: they are placed anew when the machine
// has left.
func drain(ctx context.Context, d drainer, m Member, patience time.Duration) error {
	machines, err := d.Machines(ctx)
	if err != nil {
		return ctx.Err()
	}
	others, alive := 0, false
	for _, other := range machines {
		switch {
		case other.ID == m.MachineID:
			alive = other.Alive
		case other.Alive:
			others++
		}
	}
	if !alive || others == 0 {
		return nil
	}
	if err := d.Order(ctx, m.MachineID, api.Order{Drain: true, Budget: 1}); err != nil {
		return fmt.Errorf("draining machine %s: %w", m.Name, err)
	}
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(patience, func() { cancel(errPatience) })
	defer timer.Stop()
	fewest := -1
	err = d.AwaitDrained(waiting, map[string]bool{m.MachineID: true}, func(left int) {
		if fewest < 0 || left < fewest {
			fewest = left
			timer.Reset(patience)
		}
	})
	var left *client.Left
	switch {
	case err == nil || errors.As(err, &left) && left.Stuck:
		return nil
	case context.Cause(waiting) == errPatience:
		return fmt.Errorf("draining machine %s: no unit has left it for %v: %w; stop them, or mend what they wait for, and run the same again; to keep the machine: plasmid uncordon %s", m.Name, patience, err, m.Name)
	}
	return fmt.Errorf("draining machine %s: %w", m.Name, err)
}

var errPatience = errors.New("nothing has moved")

// drain does it with the API of any machine that answers.
func (j *Joiner) drain(ctx context.Context, m Member) error {
	c, err := j.Access.apiClient()
	if err != nil || m.MachineID == "" || !m.Joined {
		return err
	}
	return drain(ctx, c, m, drainPatience)
}

// apiClient speaks to the API of all machines that have joined, as the operator.
func (a *Access) apiClient() (*client.Client, error) {
	hosts, err := a.Endpoints()
	if err != nil {
		return nil, err
	}
	return a.apiClientAt(hosts...)
}

func (a *Access) apiClientAt(hosts ...string) (*client.Client, error) {
	var endpoints []string
	for _, h := range hosts {
		endpoints = append(endpoints, "https://"+h)
	}
	return client.New(client.Config{Endpoints: endpoints, TLS: a.ClientTLS(), Via: a.DialContext})
}
