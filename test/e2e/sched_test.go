//go:build e2e

package e2e

import (
	"errors"
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

// boxedStamper does the same in a container, whose shell does not heed its stop.
const boxedStamper = `[Container]
Image=localhost/stamp:1
Volume=/var/tmp:/var/tmp
Exec=/bin/sh -c 'while :; do date +%%s%%N >>/var/tmp/stamps; sleep 0.05; done'
[Service]
Restart=always
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
	t.Parallel()
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

	t.Run("a singleton moves in a drain", func(t *testing.T) {
		c.mustRun("start", c.unit("single.service", stamper))
		from := c.at("single.service")
		c.mustRun("drain", from, "--timeout", "1m")
		c.mustRun("uncordon", from)
		_, last := c.stamps(from)
		if first, _ := c.stamps(c.at("single.service")); first <= last {
			t.Errorf("it ran twice for %v in a drain", time.Duration(last-first))
		}
		c.mustRun("destroy", "single.service")
	})
	c.stampImage(all)
	// An unclean end leaves a container that has the name.
	t.Run("a container that was left", func(t *testing.T) {
		for _, m := range all {
			c.in(m, "docker create --name boxed localhost/stamp:1 /bin/sleep infinity >/dev/null")
		}
		c.mustRun("start", c.unit("boxed.container", boxedStamper))
		at := c.at("boxed.service")
		if n := strings.TrimSpace(c.in(at, "systemctl show -P NRestarts boxed.service")); n != "0" {
			t.Errorf("it was started again %s times", n)
		}
		c.mustRun("destroy", "boxed.service")
		if left := strings.TrimSpace(c.in(at, "docker ps -a --format '{{.Names}}'; rm /var/tmp/stamps")); left != "" {
			t.Errorf("on %s remain the containers %s", at, left)
		}
		for _, m := range all {
			if m != at {
				c.in(m, "docker rm boxed")
			}
		}
	})
	t.Run("a singleton under a partition", func(t *testing.T) {
		c.mustRun("start", c.unit("single.service", stamper))
		onceUnder(t, c, all, "single.service", c.cut)
	})
	t.Run("a singleton in a container under a partition", func(t *testing.T) {
		c.mustRun("start", c.unit("boxed.container", boxedStamper))
		onceUnder(t, c, all, "boxed.service", c.cut)
	})
	// Its machine has the store, and an agent that does nothing. The unit is
	// given to another machine meanwhile.
	t.Run("a singleton while plasmidd hangs", func(t *testing.T) {
		c.mustRun("start", c.unit("single.service", stamper))
		onceUnder(t, c, all, "single.service", func(machine string) (undo func()) {
			undo = c.hang(machine, "plasmidd")
			c.mustRun("start", "--replace", "--no-block", c.unit("single.service", stamper+"[X-Fleet]\nMachineID="+c.id(another(all, machine))+"\n"))
			return undo
		})
	})
	// plasmidd has ended by the time at which the unit begins to stop.
	t.Run("a singleton that is slow to stop in a shutdown", func(t *testing.T) {
		slow := strings.Replace(stamper, "/bin/sleep 1\n", "/bin/sleep 50\n", 1)
		c.mustRun("start", c.unit("single.service", slow))
		onceUnder(t, c, all, "single.service", func(machine string) (undo func()) {
			c.in(machine, "systemctl reboot --no-block")
			c.mustRun("start", "--replace", "--no-block", c.unit("single.service", slow+"[X-Fleet]\nMachineID="+c.id(another(all, machine))+"\n"))
			return func() {}
		})
	})
	t.Run("a singleton in a container while plasmidd and Docker hang", func(t *testing.T) {
		c.mustRun("start", c.unit("boxed.container", boxedStamper))
		onceUnder(t, c, all, "boxed.service", func(machine string) (undo func()) {
			plasmidd, docker := c.hang(machine, "plasmidd"), c.freeze(machine, "docker")
			c.mustRun("start", "--replace", "--no-block", c.unit("boxed.container", boxedStamper+"[X-Fleet]\nMachineID="+c.id(another(all, machine))+"\n"))
			return func() { docker(); plasmidd() }
		})
	})
}

// at is the machine on which a unit runs.
func (c *cluster) at(unit string) string {
	c.t.Helper()
	at, err := c.places()
	if err != nil {
		c.t.Fatal(err)
	}
	return at[unit]
}

func another(all []string, machine string) string {
	for _, m := range all {
		if m != machine {
			return m
		}
	}
	return ""
}

// cut takes a machine off the network.
func (c *cluster) cut(machine string) (undo func()) {
	c.t.Helper()
	iface := strings.TrimSpace(c.in(machine, "ip -o route show default | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -1"))
	c.in(machine, "ip link set "+iface+" down")
	return func() { c.in(machine, "ip link set "+iface+" up") }
}

// hang freezes plasmidd where systemd does not replace it: the worst of a daemon
// that does nothing.
func (c *cluster) hang(machine, service string) (undo func()) {
	c.t.Helper()
	conf := "/run/systemd/system/" + service + ".service.d"
	c.in(machine, "mkdir -p "+conf+"; printf '[Service]\\nWatchdogSec=0\\n' >"+conf+"/hang.conf; systemctl daemon-reload; systemctl restart "+service)
	c.until(30*time.Second, machine+" reports", func() error { return c.alive(machine) })
	thaw := c.freeze(machine, service)
	return func() {
		thaw()
		c.until(30*time.Second, machine+" reports", func() error { return c.alive(machine) })
		c.in(machine, "rm -r "+conf+"; systemctl daemon-reload; systemctl restart "+service)
	}
}

// onceUnder has something happen to the machine of a stamper, and sees it run
// elsewhere only after it has ended there. The unit is destroyed.
func onceUnder(t *testing.T, c *cluster, all []string, unit string, fault func(machine string) (undo func())) {
	t.Helper()
	at := c.at(unit)
	for _, m := range all {
		if m != at {
			c.in(m, "rm -f /var/tmp/stamps")
		}
	}
	begun := time.Now()
	undo := fault(at)
	first, where := int64(0), ""
	c.until(90*time.Second, unit+" runs on another machine", func() error {
		for _, m := range all {
			if m == at {
				continue
			}
			if first, _ = c.stamps(m); first != 0 {
				where = m
				return nil
			}
		}
		return errors.New("it does not")
	})
	took := time.Since(begun)
	undo()
	c.until(time.Minute, at+" reports again", func() error { return c.alive(at) })
	_, last := c.stamps(at)
	t.Logf("it was away for %v, and ran elsewhere %v after the fault began", time.Duration(first-last).Round(time.Millisecond), took.Round(100*time.Millisecond))
	if first <= last {
		t.Errorf("it ran on %s and on %s for %v", at, where, time.Duration(last-first))
	}
	c.until(30*time.Second, "it runs on one machine", func() error {
		if n := c.running(unit, all...)[unit]; n != 1 {
			return fmt.Errorf("it runs %d times", n)
		}
		return nil
	})
	c.mustRun("destroy", unit)
	for _, m := range all {
		c.in(m, "rm -f /var/tmp/stamps")
	}
}

// stampImage gives every machine's Docker an image of a shell, for boxedStamper.
func (c *cluster) stampImage(all []string) {
	c.t.Helper()
	for _, m := range all {
		c.in(m, "tar -chf - -C / $(cd /; ls usr/bin/sh usr/bin/date usr/bin/sleep lib64/ld-linux-x86-64.so.2 usr/lib/x86_64-linux-gnu/libc.so.6) --transform 's,^usr/bin,bin,' | docker import - localhost/stamp:1 >/dev/null")
	}
}
