//go:build e2e

package e2e

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// TestChaos has one thing after the other go wrong, at random and without
// waiting for the one before to be over, for the time in PLASMID_CHAOS (default
// two minutes). No unit may be restarted, moved or run twice. PLASMID_CHAOS_SEED
// repeats a run.
func TestChaos(t *testing.T) {
	t.Parallel()
	limit, seed := 2*time.Minute, uint64(time.Now().Unix())
	var err error
	if s := os.Getenv("PLASMID_CHAOS"); s != "" {
		if limit, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("PLASMID_CHAOS_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("to repeat: PLASMID_CHAOS=%v PLASMID_CHAOS_SEED=%d", limit, seed)
	random := rand.New(rand.NewPCG(seed, 0))

	c := newCluster(t, "chaos", threeMachines)
	c.mustRun("up", "--yes")
	all := []string{c.machine(1), c.machine(2), c.machine(3)}
	c.sleepers("s", 24)

	seconds := func(from, to int) time.Duration { return time.Duration(from+random.IntN(to-from+1)) * time.Second }
	frozen := func(service string, machines []string, d time.Duration) {
		for _, m := range machines {
			defer c.freeze(m, service)()
		}
		time.Sleep(d) // the fault's duration
	}
	faults := []struct {
		name  string
		cause func(machine string)
	}{
		{"plasmidd is killed", func(m string) { c.in(m, "systemctl kill --signal=KILL plasmidd") }},
		{"etcd is killed", func(m string) { c.in(m, "systemctl kill --signal=KILL etcd") }},
		// For longer than its lease, and so long that systemd replaces it.
		{"plasmidd hangs", func(m string) { frozen("plasmidd", []string{m}, seconds(1, 20)) }},
		{"etcd hangs", func(m string) { frozen("etcd", []string{m}, seconds(5, 20)) }},
		{"every etcd hangs", func(string) { frozen("etcd", all, seconds(5, 20)) }},
		{"D-Bus hangs", func(m string) { frozen("dbus", []string{m}, seconds(2, 8)) }},
		{"every etcd is away for a minute", func(string) {
			for _, m := range all {
				c.in(m, "systemctl stop etcd")
			}
			time.Sleep(time.Minute)
			for _, m := range all {
				c.in(m, "systemctl start --no-block etcd")
			}
		}},
	}
	c.untouched("s@", all, func() {
		done := map[string]int{}
		for begun := time.Now(); time.Since(begun) < limit; {
			f, m := faults[random.IntN(len(faults))], all[random.IntN(len(all))]
			t.Logf("%v: %s (%s)", time.Since(begun).Round(time.Second), f.name, m)
			f.cause(m)
			done[f.name]++
			for u, n := range c.running("s@", all...) {
				if n != 1 {
					t.Errorf("%s runs %d times", u, n)
				}
			}
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond) // between faults
		}
		t.Logf("faults: %v", done)
		c.until(time.Minute, "the cluster takes changes", func() error {
			_, err := c.run("start", "--timeout", "20s", c.unit("after.service", sleeper))
			return err
		})
		c.mustRun("destroy", "after.service")
	})
}
