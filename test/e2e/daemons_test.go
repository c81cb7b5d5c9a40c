//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// lease is how long a machine may be silent before it is asked, and a little
// more: what is to go wrong has gone wrong by then.
const lease = 20 * time.Second

// etcdctl asks the machine's own etcd member, as the machine.
const etcdctl = "etcdctl --cacert /etc/plasmid/pki/ca.crt --cert /etc/plasmid/pki/node.crt --key /etc/plasmid/pki/node.key --endpoints https://127.0.0.1:2379"

// untouched runs f and asserts that no unit of the prefix was restarted, moved
// or started twice meanwhile.
func (c *cluster) untouched(prefix string, all []string, f func()) {
	c.t.Helper()
	// Every command asks the machine that answers first, which may have heard
	// less than another.
	var before map[string]string
	c.until(60*time.Second, "all units are reported", func() error {
		runs := c.running(prefix, all...)
		if _, err := c.places(); err != nil {
			return err
		}
		before = c.invocations(prefix)
		for u := range runs {
			if before[u] == "" {
				return fmt.Errorf("%s runs and is not reported", u)
			}
		}
		return nil
	})
	f()
	c.until(60*time.Second, "all units are reported as before", func() error {
		at, err := c.places()
		if err != nil {
			return err
		}
		for u, id := range before {
			if machine, _, _ := strings.Cut(id, " "); at[u] != machine {
				return fmt.Errorf("%s is on %q, was on %s", u, at[u], machine)
			}
		}
		return nil
	})
	c.until(10*time.Second, "no unit was restarted or moved", func() error {
		if after := c.invocations(prefix); !maps.Equal(before, after) {
			return fmt.Errorf("they were\n%v\nand are\n%v", before, after)
		}
		return nil
	})
	for u, n := range c.running(prefix, all...) {
		if n != 1 {
			c.t.Errorf("%s runs %d times", u, n)
		}
	}
}

// freeze stops a service's processes where they are, and returns what lets them
// go on.
func (c *cluster) freeze(machine, service string) (thaw func()) {
	c.t.Helper()
	signal := func(s string) {
		c.until(30*time.Second, service+" gets "+s, func() error {
			_, err := c.run("local", "exec", machine, "systemctl", "kill", "--kill-whom=main", "--signal="+s, service)
			if s == "CONT" {
				return nil // it may have been replaced meanwhile, and be away
			}
			return err // it may have been killed just before, and come back
		})
	}
	if service == "dbus" {
		// systemctl would ask it.
		pid := strings.TrimSpace(c.in(machine, "systemctl show -p MainPID --value dbus"))
		signal = func(s string) { c.in(machine, "kill -"+s+" "+pid) }
	}
	signal("STOP")
	frozen := true
	thaw = func() {
		if frozen {
			frozen = false
			signal("CONT")
		}
	}
	return thaw
}

// TestFaults has every daemon killed, frozen and deprived of what it needs,
// while units run that must not notice.
func TestFaults(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "faults", threeMachines)
	c.mustRun("up", "--yes")
	all := []string{c.machine(1), c.machine(2), c.machine(3)}
	c.sleepers("s", 12)
	another := func(machine string) string { return another(all, machine) }
	pinned := func(machine string) string { return sleeper + "[X-Fleet]\nMachineID=" + c.id(machine) + "\n" }

	t.Run("kill -9 of each daemon", func(t *testing.T) {
		for i, daemon := range []string{"etcd", "docker", "plasmidd", "containerd", "systemd-journald"} {
			c.untouched("s@", all, func() {
				c.in(all[i%3], "systemctl kill --signal=KILL "+daemon)
				c.until(30*time.Second, daemon+" is back", func() error {
					_, err := c.run("local", "exec", all[i%3], "systemctl", "is-active", "--quiet", daemon)
					return err
				})
				c.mustRun("start", "--timeout", "30s", c.unit("load.service", sleeper))
				c.mustRun("destroy", "load.service")
			})
		}
	})

	t.Run("a command while every plasmidd restarts", func(t *testing.T) {
		c.untouched("s@", all, func() {
			for _, signal := range []string{"KILL", "TERM"} {
				for _, m := range all {
					c.in(m, "systemctl kill --kill-whom=main --signal="+signal+" plasmidd")
				}
				c.mustRun("submit", c.unit("load.service", sleeper))
				c.mustRun("start", "--timeout", "30s", "load.service")
				c.mustRun("destroy", "load.service")
			}
		})
	})

	t.Run("a slow store", func(t *testing.T) {
		c.untouched("s@", all, func() {
			for _, m := range all {
				thaw := c.freeze(m, "etcd")
				defer thaw()
			}
			time.Sleep(15 * time.Second) // the fault's duration
		})
	})

	t.Run("a leader that was deposed", func(t *testing.T) {
		leader := c.leader()
		c.untouched("s@", all, func() {
			thaw := c.freeze(leader, "plasmidd")
			defer thaw()
			c.until(lease+10*time.Second, "another leads", func() error {
				if l := c.leader(); l == leader {
					return errors.New("it still leads")
				}
				return nil
			})
			c.mustRun("start", "--timeout", "30s", c.unit("next.service", pinned(another(leader))))
			thaw()
			c.until(30*time.Second, leader+" is back", func() error { return c.alive(leader) })
			c.mustRun("start", "--timeout", "30s", c.unit("after.service", pinned(leader)))
			if n := c.running("next", all...)["next.service"]; n != 1 {
				t.Errorf("next.service runs %d times", n)
			}
			c.mustRun("destroy", "next.service", "after.service")
		})
	})

	t.Run("plasmidd hangs", func(t *testing.T) {
		victim := another(c.leader())
		c.untouched("s@", all, func() {
			before := c.in(victim, "systemctl show -p MainPID plasmidd")
			c.freeze(victim, "plasmidd") // for ever
			took := c.until(time.Minute, "systemd has replaced it", func() error {
				if now := c.in(victim, "systemctl show -p MainPID plasmidd"); now == before || now == "MainPID=0\n" {
					return errors.New("it has not")
				}
				return c.alive(victim)
			})
			t.Logf("it was replaced after %v", took.Round(100*time.Millisecond))
		})
	})

	t.Run("plasmidd hangs for good", func(t *testing.T) {
		leader := c.leader()
		var old map[string]string
		c.until(30*time.Second, "the daemon that is asked knows of all units", func() error {
			if old = c.invocations("s@"); len(old) != 12 {
				return fmt.Errorf("one knows of %d", len(old))
			}
			return nil
		})
		count := map[string]int{}
		for _, id := range old {
			machine, _, _ := strings.Cut(id, " ")
			count[machine]++
		}
		victim := another(leader)
		if count[victim] == 0 {
			victim = another(victim)
		}
		if count[victim] == 0 || victim == leader {
			t.Fatalf("units are on %v, %s leads", count, leader)
		}
		since := strings.TrimSpace(c.in(leader, "date +%s"))
		undo := c.hang(victim, "plasmidd")
		took := c.until(90*time.Second, "its units run elsewhere", func() error { return c.allActive(slices.Collect(maps.Keys(old)), victim) })
		t.Logf("its units run elsewhere after %v", took.Round(100*time.Millisecond))
		if took < 20*time.Second {
			t.Errorf("that was sooner than systemd replaces a plasmidd that hangs; %s led:\n%s", leader,
				c.in(leader, "journalctl -u plasmidd --since @"+since+" --no-pager -o short-precise"))
		}
		undo() // it goes on, and hears of it
		c.until(20*time.Second, "it stops what it has lost", func() error {
			if n := len(c.running("s@", victim)); n > 0 {
				return fmt.Errorf("%d units run on", n)
			}
			return nil
		})
		c.untouched("s@", all, func() {}) // each runs once
		for u, id := range c.invocations("s@") {
			if was := old[u]; id != was && !strings.HasPrefix(was, victim+" ") {
				t.Errorf("%s was touched: %s became %s", u, was, id)
			}
		}
	})

	t.Run("D-Bus hangs", func(t *testing.T) {
		victim := another(c.leader())
		c.untouched("s@", all, func() {
			thaw := c.freeze(victim, "dbus")
			defer thaw()
			c.mustRun("start", "--timeout", "30s", c.unit("other.service", pinned(another(victim))))
			if out, err := c.run("start", "--timeout", "5s", c.unit("waits.service", pinned(victim))); err == nil && c.running("waits", victim)["waits.service"] != 1 {
				t.Errorf("a unit is said to run where nothing can be started: %s", out)
			}
			time.Sleep(lease) // time to do wrong
			thaw()
			c.mustRun("start", "--timeout", "60s", c.unit("waits.service", pinned(victim)))
			c.mustRun("destroy", "other.service", "waits.service")
		})
	})

	t.Run("Docker hangs", func(t *testing.T) {
		victim := another(c.leader())
		c.untouched("s@", all, func() {
			thaw := c.freeze(victim, "docker")
			defer thaw()
			// Units that need no container don't notice.
			c.mustRun("start", "--timeout", "30s", c.unit("plain.service", pinned(victim)))
			time.Sleep(lease)
			if err := c.alive(victim); err != nil {
				t.Error(err)
			}
			c.mustRun("destroy", "plain.service")
		})
	})

	t.Run("a full disk", func(t *testing.T) {
		victim := another(c.leader())
		c.untouched("s@", all, func() {
			// What plasmidd keeps lies on a full file system from now on.
			c.in(victim, `systemctl stop plasmidd
mkdir -p /run/full && mount -t tmpfs -o size=1m tmpfs /run/full
cp -a /var/lib/plasmid/. /run/full/
mount --bind /run/full /var/lib/plasmid
dd if=/dev/zero of=/run/full/fill bs=4k 2>/dev/null || true
systemctl start plasmidd`)
			c.until(30*time.Second, victim+" reports", func() error { return c.alive(victim) })
			c.mustRun("start", "--timeout", "30s", c.unit("full.service", pinned(victim)))
			if log := c.in(victim, "journalctl -u plasmidd -n 50 --no-pager -o cat"); !strings.Contains(log, "no space left on device") {
				t.Errorf("the log says nothing of the disk:\n%s", log)
			}
			c.in(victim, "rm /run/full/fill; cp -a /run/full/. /var/tmp/kept/ 2>/dev/null || { mkdir /var/tmp/kept; cp -a /run/full/. /var/tmp/kept/; }; systemctl stop plasmidd; umount /var/lib/plasmid /run/full; cp -a /var/tmp/kept/. /var/lib/plasmid/; systemctl start plasmidd")
			c.until(30*time.Second, victim+" reports", func() error { return c.alive(victim) })
			c.mustRun("destroy", "full.service")
		})
	})

	t.Run("etcd's disk is full", func(t *testing.T) {
		victim := another(c.leader())
		well := func() error {
			_, err := c.run("local", "exec", victim, "sh", "-euc", etcdctl+" endpoint health")
			return err
		}
		c.untouched("s@", all, func() {
			c.in(victim, `systemctl stop etcd
mkdir -p /run/small && mount -t tmpfs -o size=400m tmpfs /run/small
cp -a "$(readlink -f /var/lib/etcd)/." /run/small/
mount --bind /run/small /var/lib/etcd
dd if=/dev/zero of=/run/small/fill bs=4k 2>/dev/null || true
systemctl start --no-block etcd`)
			// The others take it; this one has no room for it.
			c.in(another(victim), "for i in 1 2 3 4 5 6 7 8; do head -c 700000 /dev/urandom | base64 -w0 | "+etcdctl+" put /apps/fill/$i >/dev/null; done")
			c.until(time.Minute, "etcd says that its disk is full", func() error {
				if log := c.in(victim, "journalctl -u etcd -n 300 --no-pager -o cat"); !strings.Contains(log, "no space left on device") {
					return errors.New("it does not")
				}
				return nil
			})
			c.mustRun("start", "--timeout", "30s", c.unit("room.service", pinned(victim)))
			time.Sleep(lease)
			if err := c.alive(victim); err != nil {
				t.Error(err)
			}
			c.in(victim, "rm /run/small/fill")
			c.until(time.Minute, "etcd is well again", well)
			c.in(victim, etcdctl+` del --prefix /apps/fill/ >/dev/null
systemctl stop etcd
umount /var/lib/etcd
rm -rf /var/lib/etcd/*; cp -a /run/small/. /var/lib/etcd/
umount /run/small
systemctl start etcd`)
			c.until(time.Minute, "etcd is well on its own disk", well)
			c.mustRun("destroy", "room.service")
		})
	})

	t.Run("Docker's disk is full", func(t *testing.T) {
		victim := another(c.leader())
		c.untouched("s@", all, func() {
			c.in(victim, `systemctl stop docker.socket docker
mount -t tmpfs -o size=64m tmpfs /var/lib/docker
systemctl start docker`)
			c.stampImage(all)
			c.in(victim, "dd if=/dev/zero of=/var/lib/docker/fill bs=4k 2>/dev/null || true")
			var others []string
			for _, m := range all {
				if m != victim {
					others = append(others, m)
				}
			}
			c.mustRun(append([]string{"cordon"}, others...)...)
			c.mustRun("start", "--no-block", c.unit("boxed.container", "[Container]\nImage=localhost/stamp:1\nExec=/bin/sleep infinity\n[X-Plasmid]\nRetries=1/10m\n"))
			c.until(time.Minute, "the container's unit has failed", func() error {
				out := c.mustRun("explain", "boxed.service")
				if !strings.Contains(out, "failed") {
					return errors.New(out)
				}
				return nil
			})
			if log := c.in(victim, "journalctl -u boxed.service --no-pager -o cat"); !strings.Contains(log, "no space left on device") {
				t.Errorf("the unit's log says nothing of the disk:\n%s", log)
			}
			// What needs no container is started there as ever.
			c.mustRun("start", "--timeout", "30s", c.unit("plain.service", pinned(victim)))
			c.mustRun(append([]string{"uncordon"}, others...)...)
			c.until(time.Minute, "it runs where there is room", func() error { return c.allActive([]string{"boxed.service"}, victim) })
			c.mustRun("destroy", "boxed.service", "plain.service")
			c.in(victim, "systemctl stop docker.socket docker; umount -l /var/lib/docker; systemctl start docker")
		})
	})

	t.Run("the store without a majority", func(t *testing.T) {
		c.untouched("s@", all, func() {
			for _, m := range all[:2] {
				c.in(m, "systemctl stop etcd")
			}
			begun := time.Now()
			out, err := c.run("start", "--timeout", "10s", c.unit("lost.service", sleeper))
			if err == nil || time.Since(begun) > time.Minute {
				t.Errorf("a start without a store: %v after %v: %s", err, time.Since(begun), out)
			}
			time.Sleep(lease)
			for u, n := range c.running("s@", all...) {
				if n != 1 {
					t.Errorf("%s runs %d times", u, n)
				}
			}
			for _, m := range all[:2] {
				c.in(m, "systemctl start --no-block etcd")
			}
			c.until(60*time.Second, "the cluster takes changes again", func() error {
				_, err := c.run("submit", c.unit("lost.service", sleeper))
				return err
			})
			c.mustRun("destroy", "lost.service")
		})
	})

	t.Run("the store is restored from a snapshot", func(t *testing.T) {
		file := c.dir + "/before.db"
		c.mustRun("start", "--timeout", "30s", c.unit("older.service", sleeper))
		if out := c.mustRun("snapshot", file); !strings.Contains(out, "holds the store") {
			t.Errorf("snapshot said %s", out)
		}
		if _, err := c.run("snapshot", file); err == nil || !strings.Contains(err.Error(), "there already") {
			t.Errorf("a second snapshot of the same name: %v", err)
		}
		c.mustRun("start", "--timeout", "30s", c.unit("newer.service", sleeper))
		c.untouched("s@", all, func() {
			c.restore(file, all)
			time.Sleep(lease)
			// It is not followed: what it does not know runs on.
			if n := c.running("newer", all...)["newer.service"]; n != 1 {
				t.Errorf("what the snapshot does not know runs %d times", n)
			}
			// As docs/operations.md has it.
			c.mustRun("submit", c.unit("newer.service", sleeper))
			c.mustRun("start", "--no-block", "newer.service")
			for _, m := range all {
				c.in(m, "rm /var/lib/plasmid/wish.json && systemctl restart plasmidd")
			}
			c.until(60*time.Second, "all is as it was", func() error {
				return c.allActive([]string{"older.service", "newer.service"})
			})
		})
		c.mustRun("destroy", "older.service", "newer.service")
	})

	t.Run("nothing is left of what was destroyed", func(t *testing.T) {
		c.mustRun("destroy", "s@1.service")
		for _, m := range all {
			c.until(30*time.Second, "files of units that are gone have gone from "+m, func() error {
				out := c.in(m, "ls /run/systemd/system | grep -E '^(load|next|after|other|waits|plain|full|room|boxed|lost|older|newer|s@1)[.]' || true; ls /run/plasmid/started | grep -vE '^s@' || true")
				if out != "" {
					return fmt.Errorf("there are %s", strings.Fields(out))
				}
				return nil
			})
		}
	})
}

// id is a machine's ID.
func (c *cluster) id(machine string) string {
	c.t.Helper()
	for _, m := range c.machines() {
		if m.Name == machine {
			return m.ID
		}
	}
	c.t.Fatalf("%s is not known", machine)
	return ""
}

// alive reports whether a machine reports.
func (c *cluster) alive(machine string) error {
	for _, m := range c.machines() {
		if m.Name == machine && m.Alive {
			return nil
		}
	}
	return fmt.Errorf("%s is silent", machine)
}

// restore puts a snapshot in place of what etcd holds, with etcd's own tools, as
// docs/operations.md tells.
func (c *cluster) restore(file string, all []string) {
	c.t.Helper()
	for _, m := range all {
		c.in(m, "systemctl stop etcd")
	}
	for _, m := range all {
		c.copyTo(m, file, "/var/tmp/before.db")
		c.in(m, `set -a; . /etc/default/etcd; set +a
dir=$ETCD_DATA_DIR
mv "$dir" "$dir.before"
etcdutl snapshot restore /var/tmp/before.db --name "$ETCD_NAME" --data-dir "$dir" \
  --initial-cluster "$ETCD_INITIAL_CLUSTER" --initial-advertise-peer-urls "$ETCD_INITIAL_ADVERTISE_PEER_URLS"
chown -R --reference="$dir.before" "$dir"`)
	}
	for _, m := range all {
		c.in(m, "systemctl start --no-block etcd")
	}
	c.until(60*time.Second, "the restored store takes changes", func() error {
		_, err := c.run("submit", c.unit("restored.service", sleeper))
		return err
	})
	c.mustRun("destroy", "restored.service")
}
