//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"plasmid/runtime/api"
)

func (c *cluster) reboots() (api.Reboot, error) {
	var r api.Reboot
	out, err := c.run("reboot", "status", "-o", "json")
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(out), &r)
}

// holders are the names of the machines that have the lock.
func (c *cluster) holders() ([]string, error) {
	r, err := c.reboots()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, g := range r.Groups {
		for _, h := range g.Holders {
			names = append(names, h.Name)
		}
	}
	return names, nil
}

// TestReboot lets all machines of a cluster ask for a reboot at once, and then
// takes the power from one that has the lock.
func TestReboot(t *testing.T) {
	t.Parallel()
	const body = "reboot {\n  patience = \"30s\"\n}\n" + threeMachines
	c := newCluster(t, "reboot", body)
	c.mustRun("up", "--yes")
	all := []string{c.machine(1), c.machine(2), c.machine(3)}
	units := c.sleepers("work", 6)
	boots := map[string]string{}
	for _, m := range all {
		boots[m] = c.in(m, "cat /proc/sys/kernel/random/boot_id")
		if got := c.in(m, "apt-config dump Unattended-Upgrade::Automatic-Reboot"); !strings.Contains(got, `"false"`) {
			t.Errorf("unattended-upgrades on %s: %q", m, got)
		}
	}

	t.Run("one after the other, units running elsewhere", func(t *testing.T) {
		start := time.Now()
		for _, m := range all {
			c.in(m, "echo linux-image > /run/reboot-required.pkgs; touch /run/reboot-required")
		}
		// Whoever does not answer is down: never two at once, also not because
		// of the lock.
		stop := make(chan struct{})
		var watching sync.WaitGroup
		worst, busy := 0, map[string]bool{}
		watching.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Millisecond):
				}
				holders, err := c.holders()
				if err != nil {
					continue
				}
				worst = max(worst, len(holders))
				for _, h := range holders {
					busy[h] = true
				}
			}
		})
		pending := map[string]bool{}
		for _, m := range all {
			pending[m] = true
		}
		c.until(140*time.Second, "all machines have rebooted", func() error {
			down := 0
			for _, m := range all {
				boot, err := c.run("local", "exec", m, "cat", "/proc/sys/kernel/random/boot_id")
				switch {
				case err != nil:
					down++
				case boot != boots[m]:
					delete(pending, m)
				}
			}
			if down > 1 {
				t.Errorf("%d machines were down at a time", down)
			}
			if len(pending) > 0 {
				return fmt.Errorf("not yet: %v", pending)
			}
			holders, err := c.holders()
			if err != nil || len(holders) > 0 {
				return fmt.Errorf("%v have the lock, %v", holders, err)
			}
			return c.allActive(units)
		})
		close(stop)
		watching.Wait()
		t.Logf("three machines rebooted: %v", time.Since(start).Round(100*time.Millisecond))
		if worst != 1 || len(busy) != 3 {
			t.Errorf("at most %d had the lock, %v in all", worst, busy)
		}
		for _, m := range all {
			if out := c.in(m, "ls /run/reboot-required 2>/dev/null || echo none"); strings.TrimSpace(out) != "none" {
				t.Errorf("%s: %s", m, out)
			}
		}
		if ms := c.machines(); len(ms) != 3 {
			t.Errorf("%d machines", len(ms))
		}
	})

	t.Run("a holder that loses its power is recovered from", func(t *testing.T) {
		lost, next := c.machine(3), c.machine(2)
		if c.leader() == lost {
			lost, next = next, lost
		}
		var id string
		for _, m := range c.machines() {
			if m.Name == lost {
				id = m.ID
			}
		}
		// It can run nowhere else, so that it is left there, and goes down slowly.
		c.mustRun("start", c.unit("slow.service", sleeper+"ExecStop=/bin/sleep 60\n[X-Fleet]\nMachineID="+id+"\n"))
		c.mustRun("reboot", "now", "--no-block", lost)
		c.until(20*time.Second, lost+" has the lock", func() error { return c.heldBy(lost) })
		c.mustRun("local", "power-off", lost)
		start := time.Now()
		c.mustRun("reboot", "now", "--no-block", next)
		c.until(80*time.Second, "the lock is free", func() error { return c.heldBy() })
		d := time.Since(start)
		t.Logf("the lock of a machine without power was released after %v", d.Round(100*time.Millisecond))
		if d < 25*time.Second {
			t.Errorf("after %v only, with a patience of 30s", d)
		}
		// Two of three etcd members can't be spared.
		c.until(20*time.Second, "the next machine waits for etcd", func() error {
			r, err := c.reboots()
			for _, m := range r.Machines {
				if m.Name == next && strings.Contains(m.Reason, "etcd would lose its majority") {
					return nil
				}
			}
			return fmt.Errorf("%+v, %v", r, err)
		})
		c.mustRun("local", "power-on", lost)
		c.until(40*time.Second, "the next machine has its turn", func() error { return c.heldBy(next) })
	})
}

// heldBy reports whether just these machines have the lock.
func (c *cluster) heldBy(want ...string) error {
	have, err := c.holders()
	if err == nil && !slices.Equal(have, want) {
		err = fmt.Errorf("%v have it", have)
	}
	return err
}
