//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const threeMachines = `nodes "core" {
  count = 3
  etcd = 3
  metadata = { role = "core" }
}`

const sleeper = "[Service]\nExecStart=/bin/sleep infinity\n"

// sleepers starts n units that only run, and returns their names.
func (c *cluster) sleepers(prefix string, n int) []string {
	c.t.Helper()
	c.unit(prefix+"@.service", sleeper)
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("%s@%d.service", prefix, i+1))
	}
	c.mustRun(append([]string{"start"}, names...)...)
	return names
}

// allActive reports what is missing of the units being active, once each, and
// on none of the machines named.
func (c *cluster) allActive(units []string, not ...string) error {
	at, err := c.places()
	if err != nil {
		return err
	}
	for _, u := range units {
		m, ok := at[u]
		if !ok {
			return fmt.Errorf("%s is active nowhere", u)
		}
		for _, n := range not {
			if m == n {
				return fmt.Errorf("%s is said to be on %s", u, m)
			}
		}
	}
	return nil
}

// ansible runs a playbook on a machine over SSH, by the inventory that the
// playbooks bring along.
func (c *cluster) ansible(machine, playbook string, args ...string) string {
	c.t.Helper()
	args = append([]string{"-i", filepath.Join(repo(), "playbooks/inventory"), "--limit", machine, playbook}, args...)
	cmd := exec.CommandContext(c.t.Context(), "ansible-playbook", args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "ANSIBLE_CONFIG="+filepath.Join(repo(), "playbooks/ansible.cfg"), "ANSIBLE_HOME="+c.t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestCluster takes one cluster of three machines through its life. The parts
// build on each other; each asserts what happened and that nothing else did.
func TestCluster(t *testing.T) {
	c := newCluster(t, "e2e", threeMachines)
	start := time.Now()
	c.mustRun("up", "--yes")
	t.Logf("three machines up: %v", time.Since(start).Round(100*time.Millisecond))
	all := []string{c.machine(1), c.machine(2), c.machine(3)}

	t.Run("again changes nothing", func(t *testing.T) {
		start := time.Now()
		out := c.mustRun("up", "--yes")
		if !strings.Contains(out, "nothing was changed") || time.Since(start) > 5*time.Second {
			t.Errorf("up again took %v and said:\n%s", time.Since(start), out)
		}
		if out, err := c.run("plan"); err != nil {
			t.Errorf("plan: %v\n%s", err, out)
		}
	})

	t.Run("machines are healthy", func(t *testing.T) {
		for _, m := range all {
			c.until(30*time.Second, m+" has booted", func() error {
				if out, err := c.run("local", "exec", m, "systemctl", "is-system-running"); err != nil {
					failed, _ := c.run("local", "exec", m, "systemctl", "--failed", "--no-legend")
					return fmt.Errorf("%s %s", out, failed)
				}
				return nil
			})
		}
	})

	t.Run("the playbooks run against a live node", func(t *testing.T) {
		machine := c.machine(3)
		before := c.in(machine, "systemctl show -p InvocationID plasmidd docker etcd ssh")
		// A newer image's playbooks and programs reach the nodes like this too.
		node := c.ansible(machine, filepath.Join(repo(), "playbooks/node.yml"), "-e", "plasmid_binaries="+filepath.Join(repo(), "bin"))
		if !strings.Contains(node, "changed=0") {
			t.Errorf("the image build and a live node do not come to the same:\n%s", node)
		}
		site := filepath.Join(c.dir, "site.yml")
		play := "- hosts: core\n  become: true\n  tasks:\n    - ansible.builtin.copy: {content: \"well met\\n\", dest: /etc/motd, mode: '0644'}\n"
		if err := os.WriteFile(site, []byte(play), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := c.ansible(machine, site); !strings.Contains(out, "changed=1") || c.in(machine, "cat /etc/motd") != "well met\n" {
			t.Errorf("a playbook of one's own:\n%s", out)
		}
		if after := c.in(machine, "systemctl show -p InvocationID plasmidd docker etcd ssh"); after != before {
			t.Errorf("services were restarted: %s, were %s", after, before)
		}
	})

	t.Run("systemd's adapter on a real systemd", func(t *testing.T) { c.adapter(c.machine(3), "systemd", "plasmid/runtime/systemd") })
	t.Run("Docker's adapter on a real Docker", func(t *testing.T) { c.adapter(c.machine(3), "docker", "plasmid/runtime/container") })

	t.Run("nothing listens beyond what is meant to", func(t *testing.T) {
		for _, m := range all {
			for line := range strings.Lines(c.in(m, "ss -Hltn | awk '{print $4}'")) {
				addr := strings.TrimSpace(line)
				if strings.HasPrefix(addr, "127.") || strings.HasPrefix(addr, "[::1]") || strings.HasSuffix(addr, ":22") {
					continue
				}
				if addr == "172.17.0.1:53" {
					continue // on Docker's bridge: names, for containers
				}
				if port := addr[strings.LastIndexByte(addr, ':')+1:]; (port != "2379" && port != "2380" && port != "7480") || strings.HasPrefix(addr, "0.0.0.0") || strings.HasPrefix(addr, "*") {
					t.Errorf("%s listens on %s", m, addr)
				}
			}
			if out := c.in(m, "curl -sk -o /dev/null -w '%{http_code}' https://127.0.0.1:2379/version || true"); strings.Contains(out, "200") {
				t.Errorf("etcd on %s answers without a certificate: %s", m, out)
			}
		}
	})

	t.Run("a unit that fits nowhere says why", func(t *testing.T) {
		begun := time.Now()
		_, err := c.run("start", "--timeout", "2s", c.unit("db.service", sleeper+"[X-Fleet]\nMachineMetadata=role=db\n"))
		if err == nil || !strings.Contains(err.Error(), "no machine has metadata role=db (3 checked)") {
			t.Errorf("start: %v", err)
		}
		if d := time.Since(begun); d > 20*time.Second {
			t.Errorf("it took %v to say so", d)
		}
		c.mustRun("destroy", "db.service")
	})

	t.Run("one bad unit does not hold up another", func(t *testing.T) {
		c.unit("bad.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 600\nTimeoutStartSec=infinity\n")
		c.mustRun("start", "--no-block", "bad.service")
		c.mustRun("start", "--timeout", "10s", c.unit("good.service", sleeper))
		c.mustRun("destroy", "bad.service", "good.service")
	})

	t.Run("a start that systemd refuses", func(t *testing.T) {
		c.unit("lonely.socket", "[Socket]\nListenStream=9999\n") // its service is nowhere
		start := time.Now()
		_, err := c.run("start", "lonely.socket")
		if err == nil || !strings.Contains(err.Error(), "lonely.socket failed on") || time.Since(start) > 10*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		c.mustRun("destroy", "lonely.socket")
	})

	t.Run("a port in use", func(t *testing.T) {
		c.unit("busy.socket", "[Socket]\nListenStream=22\n[X-Fleet]\nMachineOf=busy.service\n")
		c.mustRun("load", c.unit("busy.service", sleeper)) // systemd opens no socket for what runs already
		_, err := c.run("start", "busy.socket")
		if err == nil || !strings.Contains(err.Error(), "busy.socket failed on") || !strings.Contains(err.Error(), "plasmid journal busy.socket") {
			t.Errorf("got %v", err)
		}
		if out := c.mustRun("journal", "busy.socket"); !strings.Contains(out, ":22)") {
			t.Errorf("the journal says nothing of the port:\n%s", out)
		}
		c.mustRun("destroy", "busy.service", "busy.socket")
	})

	units := c.sleepers("s", 12)

	t.Run("hooks of the old text end before those of the new begin", func(t *testing.T) {
		hooks := func(v string) string {
			return "[Service]\nExecStartPre=/bin/sh -c 'echo pre-" + v + " >> /var/tmp/order'\nExecStart=/bin/sleep infinity\nExecStopPost=/bin/sh -c 'sleep 0.5; echo post-" + v + " >> /var/tmp/order'\n[X-Fleet]\nMachineID=" + c.machines()[0].ID + "\n"
		}
		c.mustRun("start", c.unit("hooks.service", hooks("1")))
		c.mustRun("start", "--replace", c.unit("hooks.service", hooks("2")))
		c.mustRun("destroy", "hooks.service")
		if out := c.in(c.machines()[0].Name, "cat /var/tmp/order"); out != "pre-1\npost-1\npre-2\npost-2\n" {
			t.Errorf("order of hooks: %q", out)
		}
	})

	t.Run("an idle cluster writes nothing", func(t *testing.T) {
		etcdctl := "ETCDCTL_API=3 etcdctl --cacert /etc/plasmid/pki/ca.crt --cert /etc/plasmid/pki/node.crt --key /etc/plasmid/pki/node.key --endpoints https://127.0.0.1:2379 get /plasmid/schema -w json"
		revision := func() int64 {
			var r struct{ Header struct{ Revision int64 } }
			if err := json.Unmarshal([]byte(c.in(c.machine(1), etcdctl)), &r); err != nil {
				t.Fatal(err)
			}
			return r.Header.Revision
		}
		c.until(30*time.Second, "the store is quiet", func() error {
			before := revision()
			time.Sleep(3 * time.Second) // idleness has no event
			if after := revision(); after != before {
				return fmt.Errorf("revision went from %d to %d in 3s", before, after)
			}
			return nil
		})
		before := revision()
		time.Sleep(10 * time.Second)
		if after := revision(); after != before {
			t.Errorf("%d writes in 10s of idleness", after-before)
		}
	})

	t.Run("kill -9 of plasmidd under load", func(t *testing.T) {
		before := c.invocations("s@")
		for round := range 3 {
			for _, m := range all {
				c.in(m, "systemctl kill --signal=KILL plasmidd")
			}
			c.until(30*time.Second, "plasmidd is back", func() error {
				_, err := c.run("start", "--timeout", "20s", c.unit(fmt.Sprintf("load%d.service", round), sleeper))
				return err
			})
		}
		c.until(30*time.Second, "all units are seen", func() error { return c.allActive(units) })
		if after := c.invocations("s@"); !maps.Equal(before, after) {
			t.Errorf("units were restarted or moved:\n%v\n%v", before, after)
		}
		for u, n := range c.running("s@", all...) {
			if n != 1 {
				t.Errorf("%s runs %d times", u, n)
			}
		}
		c.mustRun("destroy", "load0.service", "load1.service", "load2.service")
	})

	t.Run("all etcd away for 60s", func(t *testing.T) {
		before := c.invocations("s@")
		for _, m := range all {
			c.in(m, "systemctl stop etcd")
		}
		time.Sleep(60 * time.Second) // the fault's duration
		for _, n := range c.running("s@", all...) {
			if n != 1 {
				t.Errorf("units run %d times while etcd is away", n)
			}
		}
		for _, m := range all {
			c.in(m, "systemctl start --no-block etcd")
		}
		back := c.until(60*time.Second, "the cluster takes changes again", func() error {
			_, err := c.run("submit", c.unit("back.service", sleeper))
			return err
		})
		t.Logf("the cluster takes changes %v after etcd was started", back.Round(100*time.Millisecond))
		time.Sleep(10 * time.Second) // time to do wrong
		c.until(time.Second, "all units are reported", func() error { return c.allActive(units) })
		c.mustRun("destroy", "back.service")
		if after := c.invocations("s@"); !maps.Equal(before, after) {
			t.Errorf("units were restarted or moved:\n%v\n%v", before, after)
		}
		for u, n := range c.running("s@", all...) {
			if n != 1 {
				t.Errorf("%s runs %d times", u, n)
			}
		}
	})

	t.Run("reboot from inside", func(t *testing.T) {
		boot := c.in(all[1], "cat /proc/sys/kernel/random/boot_id; systemd-analyze time >/dev/null; stat -c %Y /run/systemd/system")
		_, _ = c.run("local", "exec", all[1], "systemctl", "reboot")
		c.until(60*time.Second, all[1]+" is back with another boot", func() error {
			out, err := c.run("local", "exec", all[1], "sh", "-c", "cat /proc/sys/kernel/random/boot_id; systemd-analyze time >/dev/null; stat -c %Y /run/systemd/system")
			if err != nil {
				return err
			}
			if out == boot {
				return errors.New("it has not rebooted")
			}
			return nil
		})
		c.until(60*time.Second, "all units run", func() error { return c.allActive(units) })
		c.until(30*time.Second, "each unit runs once", func() error {
			n := c.running("s@", all...)
			if len(n) != len(units) {
				return fmt.Errorf("%d units run", len(n))
			}
			for u, times := range n {
				if times != 1 {
					return fmt.Errorf("%s runs %d times", u, times)
				}
			}
			return nil
		})
	})

	t.Run("power off a machine", func(t *testing.T) {
		c.powerOff(all, units, false)
	})
	t.Run("power off the engine's machine", func(t *testing.T) {
		c.powerOff(all, units, true)
	})

	t.Run("scale 3 to 5 to 3", func(t *testing.T) {
		before := c.invocations("s@")
		c.write(strings.Replace(threeMachines, "count = 3", "count = 5", 1))
		if _, err := c.run("plan"); exitCode(err) != 2 {
			t.Errorf("plan with changes: %v, want exit code 2", err)
		}
		c.mustRun("up", "--yes")
		if n := len(c.machines()); n != 5 {
			t.Errorf("%d machines", n)
		}
		if after := c.invocations("s@"); !maps.Equal(before, after) {
			t.Errorf("new machines moved units:\n%v\n%v", before, after)
		}
		more := c.sleepers("m", 4)
		c.write(threeMachines)
		c.mustRun("up", "--yes")
		c.until(30*time.Second, "units of the removed machines are elsewhere", func() error {
			if n := len(c.machines()); n != 3 {
				return fmt.Errorf("%d machines are known", n)
			}
			return c.allActive(append(more, units...), c.machine(4), c.machine(5))
		})
		c.mustRun(append([]string{"destroy"}, more...)...)
	})

	t.Run("losing the quorum is refused", func(t *testing.T) {
		for _, m := range []string{c.machine(1), c.machine(2)} {
			c.mustRun("local", "power-off", m)
		}
		c.write(strings.NewReplacer("count = 3", "count = 1", "etcd = 3", "etcd = 1").Replace(threeMachines))
		if _, err := c.run("up", "--yes"); err == nil || !strings.Contains(err.Error(), "majority") {
			t.Errorf("up that loses the quorum: %v", err)
		}
		c.write(threeMachines)
		c.mustRun("up", "--yes") // starts them again
		c.until(60*time.Second, "all units run", func() error { return c.allActive(units) })
	})
}

// adapter runs a package's tests on a machine: those with a build tag, which ask
// what only a machine has.
func (c *cluster) adapter(machine, tag, pkg string) {
	t := c.t
	t.Helper()
	binary := filepath.Join(c.dir, tag+".test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", tag, "-o", binary, pkg)
	build.Dir = repo()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.copyTo(machine, binary, "/var/tmp/adapter.test")
	out, err := c.run("local", "exec", machine, "sh", "-euc", "chmod 755 /var/tmp/adapter.test; /var/tmp/adapter.test -test.v; rm /var/tmp/adapter.test")
	if err != nil || !strings.Contains(out, "--- PASS") {
		t.Errorf("%v: %s", err, out)
	}
}

// powerOff takes the power from a machine with units, measures until they run
// elsewhere, and asserts that the others did not move.
func (c *cluster) powerOff(all, units []string, leader bool) {
	t := c.t
	t.Helper()
	victim := c.leader()
	if !leader {
		for _, m := range all {
			if m != victim {
				victim = m
				break
			}
		}
	}
	before := c.invocations("s@")
	c.mustRun("local", "power-off", victim)
	took := c.until(40*time.Second, "all units run elsewhere", func() error { return c.allActive(units, victim) })
	t.Logf("power off of %s (leader: %v): its units run elsewhere after %v", victim, leader, took.Round(100*time.Millisecond))
	after := c.invocations("s@")
	for u, id := range before {
		if !strings.HasPrefix(id, victim+" ") && after[u] != id {
			t.Errorf("%s was touched: %s became %s", u, id, after[u])
		}
	}
	c.mustRun("local", "power-on", victim)
	c.until(60*time.Second, victim+" is back", func() error {
		for _, m := range c.machines() {
			if m.Name == victim && m.Alive {
				return nil
			}
		}
		return errors.New("it does not report")
	})
	if back := c.invocations("s@"); !maps.Equal(after, back) {
		t.Errorf("its return moved units:\n%v\n%v", after, back)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// TestInterruptedUp kills up at several moments, while machines are made, join
// and get an app, and sees it carry on.
func TestInterruptedUp(t *testing.T) {
	c := newCluster(t, "e2ecut", threeMachines+helloApp())
	for i, after := range []time.Duration{300 * time.Millisecond, 2 * time.Second, 5 * time.Second, 3 * time.Second, 2 * time.Second} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		cmd := c.command(ctx, "up", "--yes")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after) // the moment is the point
		sig := os.Signal(os.Interrupt)
		if i == 1 {
			sig = syscall.SIGKILL
		}
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
		cancel()
	}
	url := front(t, c.mustRun("up", "--yes"))
	if out := c.mustRun("up", "--yes"); !strings.Contains(out, "nothing was changed") {
		t.Errorf("up after up: %s", out)
	}
	if n := len(c.machines()); n != 3 {
		t.Errorf("%d machines", n)
	}
	c.until(30*time.Second, "five instances answer", func() error { return wantInstances(url, "1", "2", "3", "4", "5") })
}

// TestTwoClusters runs two clusters side by side; taking one down leaves the
// other as it is.
func TestTwoClusters(t *testing.T) {
	one := `nodes "core" {
  count = 1
  etcd = 1
}`
	a := newCluster(t, "e2ea", one)
	a.mustRun("up", "--yes")
	a.sleepers("s", 2)
	before := a.invocations("s@")
	b := newCluster(t, "e2eb", one)
	b.mustRun("up", "--yes")
	t.Run("a network in use", func(t *testing.T) {
		c := newCluster(t, "e2ec", "provider \"local\" { cidr = \""+network(t, a)+"\" }\n"+one)
		if _, err := c.run("up", "--yes"); err == nil || !strings.Contains(err.Error(), "is in use on this host (cluster e2ea)") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("no root", func(t *testing.T) {
		c := newCluster(t, "e2ed", one)
		for _, command := range []string{"up", "plan", "down"} {
			cmd := c.command(t.Context(), command, "--yes")
			cmd.Env = append(cmd.Env, "PLASMID_STATE=/nowhere")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			c.readable()
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "need root") || !strings.Contains(string(out), "sudo") {
				t.Errorf("%s: %v: %s", command, err, out)
			}
		}
	})

	if n := len(b.units()); n != 0 {
		t.Errorf("the second cluster has %d units", n)
	}
	b.mustRun("down", "--yes")
	if after := a.invocations("s@"); !maps.Equal(before, after) {
		t.Errorf("the first cluster was touched:\n%v\n%v", before, after)
	}
}

// network is the /24 that a cluster's machines are in.
func network(t *testing.T, c *cluster) string {
	t.Helper()
	address := c.machines()[0].PrivateIPv4
	return address[:strings.LastIndexByte(address, '.')] + ".0/24"
}
