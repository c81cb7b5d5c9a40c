//go:build bench

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"plasmid/provision/join"
	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/store"
)

const clusterName = "bench"

// cluster is five local machines.
type cluster struct {
	t    *testing.T
	file string
	api  *client.Client
}

func repo(t *testing.T) string {
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func newCluster(t *testing.T) *cluster {
	if os.Geteuid() != 0 {
		t.Fatal("local machines need root")
	}
	c := &cluster{t: t, file: filepath.Join(t.TempDir(), "cluster.hcl")}
	text := fmt.Sprintf(`cluster %q {
  image {
    playbooks = [%q]
    vars      = { docker_log_max_size = "10m" }
  }
  nodes "core" {
    count = 5
    etcd  = 3
  }
}
`, clusterName, filepath.Join(repo(t), "playbooks/node.yml"))
	if err := os.WriteFile(c.file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c.run("down", "--yes")
	t.Cleanup(func() { c.run("down", "--yes") })
	c.run("up", "--yes")
	state := os.Getenv("PLASMID_STATE")
	if state == "" {
		state = "/var/lib/plasmid"
	}
	a, err := join.LoadAccess(filepath.Join(state, "clusters", clusterName, "access"))
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := a.Endpoints()
	if err != nil {
		t.Fatal(err)
	}
	var endpoints []string
	for _, h := range hosts {
		endpoints = append(endpoints, "https://"+h)
	}
	if c.api, err = client.New(client.Config{Endpoints: endpoints, TLS: a.ClientTLS()}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) run(args ...string) string {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(repo(c.t), "bin/plasmid"), append([]string{"--file", c.file}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("plasmid %v: %v\n%s", args, err, errs.String())
	}
	return out.String()
}

func machine(i int) string { return fmt.Sprintf("%s-core-%d", clusterName, i+1) }

func (c *cluster) in(machine, script string) string {
	c.t.Helper()
	return c.run("local", "exec", machine, "sh", "-euc", script)
}

// await waits on the API's long poll until f holds of the units, and returns
// what it was told last.
func (c *cluster) await(names []string, f func(map[string]api.Unit) bool) map[string]api.Unit {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	var after int64
	for {
		list, err := c.api.Units(ctx, names, false, after)
		if err != nil {
			c.t.Fatal(err)
		}
		have := map[string]api.Unit{}
		for _, u := range list.Units {
			have[u.Name] = u
		}
		if f(have) {
			return have
		}
		after = list.Revision
	}
}

func activeOn(u api.Unit) string {
	for _, r := range u.On {
		if !r.Silent && r.Hash == u.Hash && r.State != nil && r.State.Hash == u.Hash && r.State.Active == "active" {
			return r.Name
		}
	}
	return ""
}

func (c *cluster) allActive(names []string, not string) func(map[string]api.Unit) bool {
	return func(have map[string]api.Unit) bool {
		for _, n := range names {
			if on := activeOn(have[n]); on == "" || on == not {
				return false
			}
		}
		return true
	}
}

func (c *cluster) apply(changes []api.Change) {
	c.t.Helper()
	if _, err := c.api.Apply(c.t.Context(), changes); err != nil {
		c.t.Fatal(err)
	}
}

func names(prefix string, n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("%s@%d.service", prefix, i+1))
	}
	return out
}

func (c *cluster) start(units []string) time.Duration {
	c.t.Helper()
	var changes []api.Change
	for _, u := range units {
		changes = append(changes, api.Change{Name: u, Text: sleeper, Wish: store.Launched})
	}
	begun := time.Now()
	c.apply(changes)
	c.await(units, c.allActive(units, ""))
	return time.Since(begun)
}

func (c *cluster) destroy(units []string) time.Duration {
	c.t.Helper()
	var changes []api.Change
	for _, u := range units {
		changes = append(changes, api.Change{Name: u, Delete: true})
	}
	begun := time.Now()
	c.apply(changes)
	c.await(units, func(have map[string]api.Unit) bool {
		for _, u := range have {
			if len(u.On) > 0 {
				return false
			}
		}
		return true
	})
	return time.Since(begun)
}

// plain is what systemctl takes for n units over all machines, without
// anything else: the slowest machine's time, measured within it.
func (c *cluster) plain(n, machines int) (start, stop time.Duration) {
	c.t.Helper()
	script := fmt.Sprintf(`printf '[Service]\nExecStart=/bin/sleep infinity\n' > /run/systemd/system/plain@.service
systemctl daemon-reload
units=$(seq -f 'plain@%%g.service' 1 %d)
a=$(date +%%s%%N); systemctl start $units; b=$(date +%%s%%N); systemctl stop $units; e=$(date +%%s%%N)
rm /run/systemd/system/plain@.service
echo $((b-a)) $((e-b))`, n/machines)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range machines {
		wg.Go(func() {
			f := strings.Fields(c.in(machine(i), script))
			a, err1 := strconv.ParseInt(f[0], 10, 64)
			b, err2 := strconv.ParseInt(f[1], 10, 64)
			if err := errors.Join(err1, err2); err != nil {
				c.t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			start, stop = max(start, time.Duration(a)), max(stop, time.Duration(b))
		})
	}
	wg.Wait()
	return start, stop
}

func TestCluster(t *testing.T) {
	c := newCluster(t)
	c.start(names("warm", 5))
	c.destroy(names("warm", 5))

	for _, s := range []struct {
		n, runs int
		goal    time.Duration
	}{{1, 9, 300 * time.Millisecond}, {50, 3, time.Second}, {200, 2, 3 * time.Second}} {
		var starts, stops, plainStarts, plainStops []time.Duration
		for run := range s.runs {
			units := names(fmt.Sprintf("u%dr%d", s.n, run), s.n)
			starts = append(starts, c.start(units))
			stops = append(stops, c.destroy(units))
			a, b := c.plain(s.n, min(s.n, 5))
			plainStarts, plainStops = append(plainStarts, a), append(plainStops, b)
		}
		what := fmt.Sprintf("cluster: %d units", s.n)
		if s.n == 1 {
			what = "cluster: 1 unit"
		}
		note := fmt.Sprintf("median of %d; baseline: systemctl on the machines", s.runs)
		took(what+", wish to active at the API", median(starts), s.goal, median(plainStarts), note)
		took(what+", destroyed", median(stops), s.goal, median(plainStops), note)
	}
	c.containers(50)
	c.stateChange()
	c.atRest()
	c.lists()
	c.powerOff()
}

// containers starts n units that run a container each, and as many by plain
// docker run on the machines, all at once. The image is of one program.
func (c *cluster) containers(n int) {
	const image = "bench:1"
	each := func(script string) (longest time.Duration) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				ns, err := strconv.ParseInt(strings.TrimSpace(c.in(machine(i), script)), 10, 64)
				if err != nil {
					c.t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				longest = max(longest, time.Duration(ns))
			})
		}
		wg.Wait()
		return longest
	}
	each(`cd /; tar chf - usr/bin/sleep $(ldd usr/bin/sleep | grep -o '/[^ ]*') 2>/dev/null | docker import - ` + image + ` >/dev/null; echo 0`)
	plain := fmt.Sprintf(`a=$(date +%%s%%N); for i in $(seq %d); do docker run -d --rm --name plain-$i %s /usr/bin/sleep infinity >/dev/null & done; wait; b=$(date +%%s%%N)
docker rm -f $(docker ps -q) >/dev/null; echo $((b-a))`, n/5, image)
	text := "[Container]\nImage=" + image + "\nExec=/usr/bin/sleep infinity\n"
	var ds, plains []time.Duration
	for run := range 3 {
		units := names(fmt.Sprintf("c%d", run), n)
		var changes []api.Change
		for _, u := range units {
			changes = append(changes, api.Change{Name: u, Text: text, Wish: store.Launched})
		}
		begun := time.Now()
		c.apply(changes)
		c.await(units, func(have map[string]api.Unit) bool {
			for _, name := range units {
				if u := have[name]; activeOn(u) == "" || !u.On[0].State.Ready {
					return false
				}
			}
			return true
		})
		ds = append(ds, time.Since(begun))
		c.destroy(units)
		plains = append(plains, each(plain))
	}
	base := median(plains)
	took(fmt.Sprintf("cluster: %d containers, wish to ready at the API", n), median(ds), base*11/10, base, "median of 3; baseline: docker run of as many on the machines, all at once")
}

// stateChange kills a unit's process and takes the time until the API says so.
// All machines have the host's clock.
func (c *cluster) stateChange() {
	units := names("change", 1)
	var ds []time.Duration
	for range 9 {
		c.start(units)
		at := activeOn(c.await(units, c.allActive(units, ""))[units[0]])
		told := make(chan time.Time, 1)
		go func() {
			c.await(units, func(have map[string]api.Unit) bool {
				u := have[units[0]]
				return len(u.On) > 0 && u.On[0].State != nil && u.On[0].State.Active == "failed"
			})
			told <- time.Now()
		}()
		ns, err := strconv.ParseInt(strings.TrimSpace(c.in(at, "date +%s%N; systemctl kill -s KILL "+units[0])), 10, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		ds = append(ds, (<-told).Sub(time.Unix(0, ns)))
		c.destroy(units)
	}
	took("cluster: a state change to the API, median", median(ds), 50*time.Millisecond, 0, "systemctl kill's own time is in it")
}

// atRest looks at the daemons with 100 units there.
func (c *cluster) atRest() {
	units := names("rest", 100)
	c.start(units)
	time.Sleep(5 * time.Second)
	const window = 20
	script := fmt.Sprintf(`p=$(systemctl show -P MainPID plasmidd)
grep VmRSS /proc/$p/status | tr -dc 0-9; echo
cpu() { set -- $(cut -d')' -f2 /proc/$p/stat); echo $((${12}+${13})); }
a=$(cpu); sleep %d; b=$(cpu); echo $((b-a)); getconf CLK_TCK`, window)
	var mu sync.Mutex
	var rss, cpu []float64
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			f := strings.Fields(c.in(machine(i), script))
			kib, err1 := strconv.ParseFloat(f[0], 64)
			ticks, err2 := strconv.ParseFloat(f[1], 64)
			hz, err3 := strconv.ParseFloat(f[2], 64)
			if err := errors.Join(err1, err2, err3); err != nil {
				c.t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			rss, cpu = append(rss, kib/1024), append(cpu, 100*ticks/hz/window)
		})
	}
	wg.Wait()
	add(row{what: "cluster: plasmidd's memory with 100 units, largest of 5", value: fmt.Sprintf("%.0f MiB", slices.Max(rss)), goal: "< 30 MB", note: fmt.Sprintf("RSS; smallest %.0f MiB", slices.Min(rss))})
	add(row{what: "cluster: plasmidd's CPU at rest, largest of 5", value: fmt.Sprintf("%.2f %%", slices.Max(cpu)), goal: "< 0.5 %", note: fmt.Sprintf("of one core, over %d s; smallest %.2f %%", window, slices.Min(cpu))})
	c.destroy(units)
}

// lists takes the time of one answer with 1,000 units, 100 of which run.
func (c *cluster) lists() {
	var changes []api.Change
	for i, n := range names("list", 1000) {
		ch := api.Change{Name: n, Text: sleeper, Wish: store.Inactive}
		if i < 100 {
			ch.Wish = store.Launched
		}
		changes = append(changes, ch)
	}
	for piece := range slices.Chunk(changes, 100) {
		c.apply(piece)
	}
	running := names("list", 100)
	c.await(running, c.allActive(running, ""))
	var ds, empty, cli []time.Duration
	for range 9 {
		begun := time.Now()
		if _, err := c.api.Units(c.t.Context(), nil, false, 0); err != nil {
			c.t.Fatal(err)
		}
		ds = append(ds, time.Since(begun))
		begun = time.Now()
		if _, err := c.api.Units(c.t.Context(), running[:1], false, 0); err != nil {
			c.t.Fatal(err)
		}
		empty = append(empty, time.Since(begun))
		begun = time.Now()
		c.run("list-units")
		cli = append(cli, time.Since(begun))
	}
	base := median(empty)
	took("cluster: listing 1,000 units by the API", median(ds), 100*time.Millisecond, base, "100 of them run; baseline: a list of one")
	took("cluster: plasmid list-units of 1,000 units", median(cli), 100*time.Millisecond, base, "the whole command, with TLS and the table")
	for i := range changes {
		changes[i] = api.Change{Name: changes[i].Name, Delete: true}
	}
	for piece := range slices.Chunk(changes, 100) {
		c.apply(piece)
	}
	c.await(running, func(have map[string]api.Unit) bool { return len(have) == 0 })
}

// powerOff takes the power from a machine and waits until its units are active
// elsewhere: first from one that neither leads nor votes in etcd, then from
// the one that leads and votes.
func (c *cluster) powerOff() {
	units := names("move", 25)
	c.start(units)
	c.await(units, c.allActive(units, ""))
	lose := func(what string, goal time.Duration, pick func(api.Machine) bool) {
		ms, err := c.api.Machines(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		i := slices.IndexFunc(ms, pick)
		if i < 0 {
			add(row{what: what, value: "not measured", note: "no such machine this time"})
			return
		}
		begun := time.Now()
		c.run("local", "power-off", ms[i].Name)
		c.await(units, c.allActive(units, ms[i].Name))
		took(what, time.Since(begun), goal, 0, "the command's own time is in it")
		c.run("local", "power-on", ms[i].Name)
		c.t.Logf("%s was powered off", ms[i].Name)
		for limit := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
			ms, err := c.api.Machines(c.t.Context())
			if err == nil && !slices.ContainsFunc(ms, func(m api.Machine) bool { return !m.Alive }) {
				return
			}
			if time.Now().After(limit) {
				c.t.Fatal("the machine does not come back")
			}
		}
	}
	votes := func(m api.Machine) bool { return m.Name <= machine(2) }
	lose("cluster: power-off to its units active elsewhere", 8*time.Second, func(m api.Machine) bool { return !m.Leader && !votes(m) })
	lose("cluster: the same, of the leader and etcd member", 10*time.Second, func(m api.Machine) bool { return m.Leader && votes(m) })
}
