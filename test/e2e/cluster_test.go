//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"plasmid/provision/local"
	"plasmid/provision/plan"
	"plasmid/runtime/api"
)

// cluster is a cluster of a test's own.
type cluster struct {
	t    *testing.T
	name string
	dir  string // with cluster.hcl
	env  []string
}

// repo is the source tree.
func repo() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}

// newCluster writes a cluster file; body is what stands in its cluster block.
// When the test ends, the cluster is taken down, and the test fails if that
// leaves anything.
func newCluster(t *testing.T, name, body string) *cluster {
	t.Helper()
	c := &cluster{t: t, name: name, dir: t.TempDir()}
	named.Store(name, true)
	c.write(body)
	c.mustRun("down", "--yes") // of a run that was killed
	nothingLeft(t, name)
	t.Cleanup(func() {
		if t.Failed() {
			c.logs()
		}
		c.mustRun("down", "--yes")
	})
	return c
}

// named are the clusters that tests have made: names.
var named sync.Map

// nothingLeft makes the test fail if there is more on the host when it ends
// than there is now, but for what is of another cluster, whose test tells of it
// itself. What is cleaned up after this call is cleaned up before.
func nothingLeft(t *testing.T, cluster string) {
	t.Helper()
	before := kernelState(t)
	t.Cleanup(func() {
		left := added(before, kernelState(t))
		others, err := filepath.Glob(filepath.Join(stateDir, "clusters", "*"))
		if err != nil {
			t.Fatal(err)
		}
		named.Range(func(name, _ any) bool {
			others = append(others, filepath.Join(stateDir, "clusters", name.(string)))
			return true
		})
		for _, dir := range others {
			if filepath.Base(dir) != cluster {
				_, err := os.Stat(dir)
				left = slices.DeleteFunc(left, func(l string) bool {
					// The mount is of all clusters; the last to go takes it away.
					return strings.Contains(l, dir+"/") || strings.Contains(l, local.Tag(filepath.Join(dir, "local"))) || err == nil && l == "mount /run/netns"
				})
			}
		}
		if len(left) > 0 {
			t.Errorf("left on this host:\n%s", strings.Join(left, "\n"))
		}
	})
}

func (c *cluster) write(body string) {
	c.t.Helper()
	text := fmt.Sprintf("cluster %q {\n%s\n%s\n}\n", c.name, exampleImage(), body)
	if err := os.WriteFile(c.file(), []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// exampleImage is the image block of the example cluster, whose image is there.
func exampleImage() string {
	return fmt.Sprintf("image {\n  playbooks = [%q]\n  vars = { docker_log_max_size = \"10m\" }\n}", filepath.Join(repo(), "playbooks/node.yml"))
}

func (c *cluster) file() string { return filepath.Join(c.dir, "cluster.hcl") }

// readable lets every user read the cluster file.
func (c *cluster) readable() {
	for dir := c.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
}

// command is plasmid with arguments.
func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(repo(), "bin", "plasmid"), append([]string{"--file", c.file()}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), c.env...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run returns standard output, and an error that holds standard error.
func (c *cluster) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := c.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("plasmid %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (c *cluster) mustRun(args ...string) string {
	c.t.Helper()
	out, err := c.run(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// in runs a shell script on a machine.
func (c *cluster) in(machine, script string) string {
	c.t.Helper()
	return c.mustRun("local", "exec", machine, "sh", "-euc", script)
}

// copyTo puts a file on a machine.
func (c *cluster) copyTo(machine, from, to string) {
	c.t.Helper()
	f, err := os.Open(from)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	cmd := c.command(c.t.Context(), "local", "exec", machine, "sh", "-euc", "cat >"+to)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("copying %s to %s: %v: %s", from, machine, err, out)
	}
}

func (c *cluster) machine(i int) string { return fmt.Sprintf("%s-core-%d", c.name, i) }

// file writes a unit file and returns its path.
func (c *cluster) unit(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func (c *cluster) units() []api.Unit {
	c.t.Helper()
	units, err := c.tryUnits()
	if err != nil {
		c.t.Fatal(err)
	}
	return units
}

func (c *cluster) tryUnits() ([]api.Unit, error) {
	out, err := c.run("list-units", "-o", "json")
	if err != nil {
		return nil, err
	}
	var units []api.Unit
	return units, json.Unmarshal([]byte(out), &units)
}

func (c *cluster) machines() []api.Machine {
	c.t.Helper()
	var ms []api.Machine
	if err := json.Unmarshal([]byte(c.mustRun("list-machines", "-o", "json")), &ms); err != nil {
		c.t.Fatal(err)
	}
	return ms
}

func (c *cluster) leader() string {
	c.t.Helper()
	name := ""
	c.until(30*time.Second, "a machine leads", func() error {
		for _, m := range c.machines() {
			if m.Leader && m.Alive {
				name = m.Name
				return nil
			}
		}
		return fmt.Errorf("none does")
	})
	return name
}

// places maps every unit that is active and reported to its machine; a unit
// that is active on several is an error.
func (c *cluster) places() (map[string]string, error) {
	units, err := c.tryUnits()
	if err != nil {
		return nil, err
	}
	at := map[string]string{}
	for _, u := range units {
		for _, r := range u.On {
			if r.State == nil || r.State.Active != "active" || r.Silent {
				continue
			}
			if other, twice := at[u.Name]; twice {
				return nil, fmt.Errorf("%s is active on %s and on %s", u.Name, other, r.Name)
			}
			at[u.Name] = r.Name
		}
	}
	return at, nil
}

// until waits for what no event tells this side of: the state of a cluster as
// its command line shows it.
func (c *cluster) until(limit time.Duration, what string, f func() error) time.Duration {
	c.t.Helper()
	start := time.Now()
	for {
		err := f()
		if err == nil {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			c.t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// invocations maps every unit named to systemd's ID of its run, on the
// machines that have it: the IDs change when anything is restarted.
func (c *cluster) invocations(prefix string) map[string]string {
	c.t.Helper()
	ids := map[string]string{}
	at, err := c.places()
	if err != nil {
		c.t.Fatal(err)
	}
	on := map[string][]string{}
	for u, m := range at {
		if strings.HasPrefix(u, prefix) {
			on[m] = append(on[m], u)
		}
	}
	for m, units := range on {
		slices.Sort(units)
		out := c.in(m, "systemctl show -p Id -p InvocationID "+strings.Join(units, " "))
		id := ""
		for line := range strings.Lines(out) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch k {
			case "Id":
				id = v
			case "InvocationID":
				ids[id] = m + " " + v
			}
			if k == "InvocationID" {
				id = ""
			}
		}
	}
	return ids
}

// running counts, on the machines themselves, how often each unit runs.
func (c *cluster) running(prefix string, machines ...string) map[string]int {
	c.t.Helper()
	n := map[string]int{}
	for _, m := range machines {
		out := c.in(m, "systemctl list-units --plain --no-legend --state=active '"+prefix+"*' | cut -d' ' -f1")
		for _, u := range strings.Fields(out) {
			n[u]++
		}
	}
	return n
}

func (c *cluster) logs() {
	var in struct{ Machines []plan.Observed }
	out, err := c.run("status", "-o", "json")
	if err != nil || json.Unmarshal([]byte(out), &in) != nil {
		c.t.Log("no status:", err)
		return
	}
	for _, m := range in.Machines {
		out, _ := c.run("local", "exec", m.Name, "journalctl", "-u", "plasmidd", "-u", "plasmid-guard", "-u", "etcd", "-n", "40", "--no-pager", "-o", "short-precise")
		c.t.Logf("== %s (running: %v)\n%s", m.Name, m.Running, out)
	}
}

// machineGroup finds the processes of machines by their cgroup.
var machineGroup = regexp.MustCompile(`/pl[0-9a-f]{6}_[0-9]+`)

// kernelState lists what a cluster could leave on the host.
func kernelState(t *testing.T) []string {
	t.Helper()
	var state []string
	for _, pattern := range []string{"/run/netns/*", "/sys/class/net/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		state = append(state, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		state = append(state, "mount "+strings.Fields(line)[1])
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		if len(cmdline) == 0 {
			continue // dead, and only not yet waited for by the host's init
		}
		args := strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " ")
		if group := machineGroup.Find(cgroup); group != nil || strings.Contains(args, "local supervise") {
			state = append(state, "process "+filepath.Base(p)+" "+string(group)+" "+args)
		}
	}
	cgroups, err := exec.Command("find", "/sys/fs/cgroup", "-type", "d", "-name", "pl??????_*").Output()
	if err != nil {
		t.Fatal(err)
	}
	return append(state, strings.Fields(string(cgroups))...)
}

func added(before, after []string) []string {
	var new []string
	for _, a := range after {
		if !slices.Contains(before, a) {
			new = append(new, a)
		}
	}
	return new
}
