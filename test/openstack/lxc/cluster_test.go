//go:build openstack

package lxc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"plasmid/provision/join"
	"plasmid/provision/plan"
	"plasmid/runtime/api"
)

// imageState is where the command line has what it built, when nothing else is
// said.
const imageState = "/var/lib/plasmid"

// cluster is one of a test's own, as its operator has it on a workstation.
type cluster struct {
	t     *testing.T
	name  string
	dir   string // with cluster.hcl
	state string
}

// repo is the source tree.
var repo = func() string {
	dir, err := filepath.Abs("../../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

func newCluster(t *testing.T, name string) *cluster {
	t.Helper()
	c := &cluster{t: t, name: name, dir: t.TempDir()}
	c.workstation()
	return c
}

// workstation goes on without anything that is known of the cluster, as on
// another workstation. What was built or downloaded is there.
func (c *cluster) workstation() {
	c.t.Helper()
	c.state = c.t.TempDir()
	if err := os.Symlink(filepath.Join(imageState, "cache"), filepath.Join(c.state, "cache")); err != nil {
		c.t.Fatal(err)
	}
}

// write writes the cluster file.
func (c *cluster) write(flavor, app string) {
	c.t.Helper()
	text := fmt.Sprintf(`cluster %q {
  provider "openstack" {
    image            = "plasmid-lxc"
    flavor           = %q
    external_network = "ext-net"
    ssh_allow        = ["172.24.4.0/24"]
    public_ports     = [80]
    network { cidr = "10.43.0.0/24" }
  }
  nodes "core" {
    count       = 3
    public_ipv4 = "floating"
  }
  app "hello" { source = %q }
}
`, c.name, flavor, app)
	if err := os.WriteFile(filepath.Join(c.dir, "cluster.hcl"), []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "PLASMID_STATE="+c.state)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run is plasmid with arguments; the error holds standard error.
func (c *cluster) run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	cmd := c.command(ctx, filepath.Join(repo, "bin", "plasmid"), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("plasmid %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (c *cluster) mustRun(args ...string) string {
	c.t.Helper()
	out, err := c.run(c.t.Context(), args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// plan is what plasmid plan shows, as IDs of steps.
func (c *cluster) plan() []string {
	c.t.Helper()
	out, err := c.run(c.t.Context(), "plan", "-o", "json")
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 2) {
		c.t.Fatal(err)
	}
	var p plan.Plan
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	if (len(p.Steps) > 0) != (err != nil) {
		c.t.Errorf("%d steps, and the error %v", len(p.Steps), err)
	}
	var ids []string
	for _, s := range p.Steps {
		ids = append(ids, s.ID)
	}
	return ids
}

func (c *cluster) machines(ctx context.Context) ([]api.Machine, error) {
	out, err := c.run(ctx, "list-machines", "-o", "json")
	if err != nil {
		return nil, err
	}
	var ms []api.Machine
	return ms, json.Unmarshal([]byte(out), &ms)
}

// wantMembers expects the three machines to report and to be etcd's members,
// each with a vote.
func (c *cluster) wantMembers() {
	c.t.Helper()
	want := []string{c.name + "-core-1", c.name + "-core-2", c.name + "-core-3"}
	c.until(time.Minute, "three machines report", func() error {
		ms, err := c.machines(c.t.Context())
		if err != nil {
			return err
		}
		var have []string
		for _, m := range ms {
			if m.Alive && m.Order == nil {
				have = append(have, m.Name)
			}
		}
		if slices.Sort(have); !slices.Equal(have, want) || len(ms) != len(want) {
			return fmt.Errorf("of %d machines these report: %v", len(ms), have)
		}
		return nil
	})
	access, err := join.LoadAccess(filepath.Join(c.state, "clusters", c.name, "access"))
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := access.OpenStore(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.Close()
	list, err := s.Client().MemberList(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	var voters []string
	for _, m := range list.Members {
		if !m.IsLearner {
			voters = append(voters, m.Name)
		}
	}
	if slices.Sort(voters); !slices.Equal(voters, want) || len(list.Members) != len(want) {
		c.t.Errorf("of etcd's %d members these vote: %v", len(list.Members), voters)
	}
}

// public are the machines' addresses that the world sees.
func (c *cluster) public() []string {
	c.t.Helper()
	var status struct{ Machines []plan.Observed }
	if err := json.Unmarshal([]byte(c.mustRun("status", "-o", "json")), &status); err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, m := range status.Machines {
		out = append(out, m.PublicIPv4)
	}
	return out
}

// until waits for what no event tells this side of.
func (c *cluster) until(limit time.Duration, what string, f func() error) {
	c.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
	}
}

// get asks for a page and returns which instance of the app has made it.
func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	instance, ok := strings.CutPrefix(string(body), "Hello from instance ")
	if resp.StatusCode != http.StatusOK || !ok {
		return "", fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	instance, _, _ = strings.Cut(instance, " ")
	return instance, nil
}
