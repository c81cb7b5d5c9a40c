// Package drain empties a machine before it reboots, by the same order that an
// operator gives with plasmid drain.
package drain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// Who gives the orders. The second took over from an operator's cordon, which
// is put back afterwards.
const (
	by         = "reboot"
	byCordoned = "reboot, cordoned before"
)

// Store is what the orders are written to.
type Store interface {
	SetOrder(ctx context.Context, o store.Order) (int64, error)
	DeleteOrder(ctx context.Context, machine string) (int64, error)
}

// Mirror is the view that shows the machine getting empty.
type Mirror interface {
	View() *store.View
	Changed() <-chan struct{}
	Wait(ctx context.Context, revision int64) error
}

// Drainer empties one machine.
type Drainer struct {
	Machine string
	Store   Store
	Mirror  Mirror
	// Waiting says of units that are to leave what they wait for, as the
	// leader knows it. One that "no machine" can run has nowhere to go.
	Waiting func(ctx context.Context) (map[string]string, error)
}

// Drain orders that no unit stays on the machine, and returns when none is
// left but global ones, and such as no other machine can run: those stop with
// the machine and start with it. A drain that an operator ordered is waited for
// and stays.
func (d *Drainer) Drain(ctx context.Context) error {
	order := store.Order{Machine: d.Machine, Drain: true, By: by, Since: time.Now().UTC().Truncate(time.Second)}
	have, ordered := d.Mirror.View().Orders[d.Machine]
	if !ordered || !have.Drain {
		if ordered {
			order.By = byCordoned
		}
		revision, err := d.Store.SetOrder(ctx, order)
		if err == nil {
			err = d.Mirror.Wait(ctx, revision)
		}
		if err != nil {
			return err
		}
	}
	// The leader's word on what is stuck changes without the store.
	ask := time.NewTicker(time.Second)
	defer ask.Stop()
	for {
		changed := d.Mirror.Changed()
		left := d.left()
		if len(left) == 0 {
			return nil
		}
		why, err := d.Waiting(ctx)
		if err == nil && stuck(left, why) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("units are left here: %s: %w", list(left, why), ctx.Err())
		case <-changed:
		case <-ask.C:
		}
	}
}

// left are the units that are still to leave: those that are placed here, and
// those that were and have not ended yet.
func (d *Drainer) left() []string {
	v := d.Mirror.View()
	var out []string
	for name, on := range v.Placements {
		p, here := on[d.Machine]
		if !here {
			continue
		}
		if spec, err := unit.SpecOf(name, p.Text); err == nil && spec.Global {
			continue
		}
		out = append(out, name)
	}
	for name, on := range v.States {
		if st, here := on[d.Machine]; here && st.Active != "inactive" && st.Active != "failed" {
			if _, placed := v.Placements[name][d.Machine]; !placed {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// stuck reports whether all that is left can run on no other machine, or goes
// where one goes that can't.
func stuck(left []string, why map[string]string) bool {
	return !slices.ContainsFunc(left, func(u string) bool {
		return !strings.HasPrefix(why[u], "no machine") && !strings.HasPrefix(why[u], "it follows ")
	})
}

// list names some units, with what they wait for.
func list(units []string, why map[string]string) string {
	const most = 5
	var out []string
	for i, u := range units {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(units)-most))
			break
		}
		if w := why[u]; w != "" {
			u += " (" + w + ")"
		}
		out = append(out, u)
	}
	return strings.Join(out, ", ")
}

// Undrain takes back what Drain ordered, and nothing that an operator did.
func (d *Drainer) Undrain(ctx context.Context) error {
	have, ordered := d.Mirror.View().Orders[d.Machine]
	var revision int64
	var err error
	switch {
	case ordered && have.By == by:
		revision, err = d.Store.DeleteOrder(ctx, d.Machine)
	case ordered && have.By == byCordoned:
		revision, err = d.Store.SetOrder(ctx, store.Order{Machine: d.Machine, By: "before the reboot", Since: have.Since})
	}
	if err != nil {
		return err
	}
	return d.Mirror.Wait(ctx, revision)
}
