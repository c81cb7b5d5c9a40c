//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// stamper writes the time, by the clock that all machines of this host share,
// twenty times a second. It takes its time to stop.
const stamper = `[Service]
ExecStart=/bin/sh -c 'while :; do date +%%s%%N >>/var/tmp/stamps; sleep 0.05; done'
ExecStop=/bin/sleep 1
TimeoutStopSec=60
[X-Plasmid]
Singleton=yes
`

// stamps are the first and the last time that a machine wrote, 0 for none.
func (c *cluster) stamps(machine string) (first, last int64) {
	c.t.Helper()
	for i, line := range strings.Fields(c.in(machine, "cat /var/tmp/stamps 2>/dev/null | sed -n '1p;$p'")) {
		n, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		if i == 0 {
			first = n
		}
		last = n
	}
	return first, last
}

// TestScheduling takes one cluster through what operators do to machines, and
// through a partition with a singleton on the wrong side.
func TestScheduling(t *testing.T) {
	c := newCluster(t, "e2esched", threeMachines)
	c.mustRun("up", "--yes")
	all := []string{c.machine(1), c.machine(2), c.machine(3)}

	t.Run("drain", func(t *testing.T) {
		units := c.sleepers("d", 6)
		before := c.mustRun("simulate", "--drain", all[2])
		if !strings.Contains(before, "moves from "+all[2]+" to ") {
			t.Errorf("simulate --drain:\n%s", before)
		}
		start := time.Now()
		c.mustRun("drain", all[2], "--budget", "2", "--timeout", "1m")
		t.Logf("drained in %v", time.Since(start).Round(10*time.Millisecond))
		if err := c.allActive(units, all[2]); err != nil {
			t.Error(err)
		}
		if n := len(c.running("d@", all[2])); n != 0 {
			t.Errorf("%d units run on the drained machine", n)
		}
		if out := c.mustRun("list-machines"); !strings.Contains(out, "is drained") {
			t.Errorf("list-machines:\n%s", out)
		}
		out := c.mustRun("explain", "d@1.service")
		if !strings.Contains(out, "is being drained") || !strings.Contains(out, "has it") {
			t.Errorf("explain:\n%s", out)
		}
		c.mustRun("drain", all[2]) // again: nothing to do
		c.mustRun("uncordon", all[2])
		c.mustRun("rebalance", "--budget", "3")
		if n := len(c.running("d@", all[2])); n == 0 {
			t.Error("nothing came back to the machine")
		}
		c.mustRun(append([]string{"destroy"}, units...)...)
	})

	t.Run("a unit waits for another", func(t *testing.T) {
		dir := t.TempDir()
		write := func(name, text string) string {
			file := filepath.Join(dir, name)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			return file
		}
		front := write("front.service", sleeper+"[X-Plasmid]\nRequires=back.service\n")
		_, err := c.run("start", "--timeout", "3s", front)
		if err == nil || !strings.Contains(err.Error(), "it requires back.service, which the cluster does not have") {
			t.Errorf("start: %v", err)
		}
		c.mustRun("start", write("back.service", sleeper))
		c.mustRun("start", "front.service")
		c.mustRun("destroy", "front.service", "back.service")
	})

	t.Run("a unit that fails is tried elsewhere", func(t *testing.T) {
		file := c.unit("f.service", "[Service]\nExecStart=/bin/sh -c 'test -e /var/tmp/good || exit 1; exec sleep infinity'\n[X-Plasmid]\nRetries=1/10m\n")
		c.in(all[1], "touch /var/tmp/good")
		c.mustRun("start", "--no-block", file)
		c.until(time.Minute, "it runs on the machine on which it can", func() error {
			at, err := c.places()
			if err == nil && at["f.service"] != all[1] {
				err = fmt.Errorf("it is on %q", at["f.service"])
			}
			return err
		})
		c.mustRun("destroy", "f.service")
	})

	t.Run("a unit that runs once", func(t *testing.T) { runsOnce(t, c, all) })
	t.Run("a timer", func(t *testing.T) { firesOnce(t, c, all) })
	t.Run("a rolling update while daemons are killed", func(t *testing.T) { rollsUnderFaults(t, c, all) })

	t.Run("a singleton under a partition", func(t *testing.T) {
		c.mustRun("start", c.unit("single.service", stamper))
		at, err := c.places()
		if err != nil {
			t.Fatal(err)
		}
		cut := at["single.service"]
		var rest []string
		for _, m := range all {
			if m != cut {
				rest = append(rest, m)
			}
		}
		// It moves while everything is well, too, and back.
		c.mustRun("drain", cut, "--timeout", "1m")
		c.mustRun("uncordon", cut)
		if at, err = c.places(); err != nil {
			t.Fatal(err)
		}
		_, last := c.stamps(cut)
		first, _ := c.stamps(at["single.service"])
		if first <= last {
			t.Errorf("it ran twice for %v in a drain", time.Duration(last-first))
		}
		cut = at["single.service"]
		rest = rest[:0]
		for _, m := range all {
			c.in(m, "rm -f /var/tmp/stamps.old; mv /var/tmp/stamps /var/tmp/stamps.old 2>/dev/null || true")
			if m != cut {
				rest = append(rest, m)
			}
		}
		c.in(cut, "rm -f /var/tmp/stamps")
		iface := strings.TrimSpace(c.in(cut, "ip -o route show default | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -1"))
		c.in(cut, "ip link set "+iface+" down")
		took := c.until(90*time.Second, "it runs on another machine", func() error {
			for _, m := range rest {
				if first, _ := c.stamps(m); first != 0 {
					return nil
				}
			}
			return fmt.Errorf("it does not")
		})
		_, last = c.stamps(cut)
		for _, m := range rest {
			if first, _ := c.stamps(m); first != 0 {
				t.Logf("it was away for %v, and %v after the cut it ran elsewhere", time.Duration(first-last).Round(time.Millisecond), took)
				if first <= last {
					t.Errorf("it ran twice for %v", time.Duration(last-first))
				}
			}
		}
		c.in(cut, "ip link set "+iface+" up")
		c.until(time.Minute, "the machine reports again", func() error {
			for _, m := range c.machines() {
				if m.Name == cut && !m.Alive {
					return fmt.Errorf("it is silent")
				}
			}
			return nil
		})
		if n := len(c.running("single", all...)); n != 1 {
			t.Errorf("it runs %d times", n)
		}
	})
}
