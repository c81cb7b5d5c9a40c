//go:build openstack_full

package openstack

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests have servers that run, each in a lab of the tier that suits it: see
// test/openstack/full, which runs them.

// operator runs bin/plasmid with a cluster file, in testdata, in a project of his
// own.
type operator struct {
	*project
	t    *testing.T
	file string
}

// do runs a command and logs how long it took.
func (o operator) do(args ...string) string {
	o.t.Helper()
	out, err := o.try(o.t.Context(), args...)
	if err != nil {
		o.t.Fatalf("plasmid %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (o operator) try(ctx context.Context, args ...string) (string, error) {
	o.t.Helper()
	c := exec.CommandContext(ctx, os.Getenv("PLASMID_PROGRAM"), args...)
	c.Env = append(os.Environ(), "OS_CLOUD="+o.cloud, "PLASMID_FILE="+filepath.Join(os.Getenv("PLASMID_FULL"), o.file))
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, os.Stderr
	start := time.Now()
	err := c.Run()
	o.t.Logf("plasmid %s: %.1f s", strings.Join(args, " "), time.Since(start).Seconds())
	return out.String(), err
}

// clean takes the cluster and its images down when the test ends, and then the
// cloud is as it was.
func (o operator) clean() {
	before := o.census(o.t)
	o.t.Cleanup(func() {
		ctx := context.Background() // that of the test has ended
		for _, args := range [][]string{{"down", "--yes"}, {"image", "prune", "--cloud", "--keep", "0"}} {
			if _, err := o.try(ctx, args...); err != nil {
				o.t.Errorf("plasmid %v: %v", args, err)
			}
		}
		if left := diff(before, o.census(o.t)); left != "" {
			o.t.Errorf("the cloud is not as it was:\n%s", left)
		}
		if left := o.images(o.t); len(left) > 0 {
			o.t.Errorf("images left: %v", left)
		}
	})
}

// The qcow2 goes into Glance, boots through Nova with its boot loader, kernel
// and config drive, and the machines of it become a cluster that runs a unit.
func TestFullQcow2(t *testing.T) {
	o := operator{newProject(t), t, "full.hcl"}
	o.clean()
	o.do("image", "push")
	o.cluster()
}

// An image is built on a server, from a plain Debian that knows nothing of
// Plasmid. Only the image stays of it; it is not built again; machines of it
// become a cluster.
func TestFullCloudBuild(t *testing.T) {
	o := operator{newProject(t), t, "cloud.hcl"}
	o.clean()
	before := o.census(t)
	if out := o.do("image", "build"); !strings.Contains(out, "is in the cloud") {
		t.Errorf("the build says %s", out)
	}
	if left := diff(before, o.census(t)); left != "" {
		t.Errorf("the build left:\n%s", left)
	}
	if list := o.images(t); len(list) != 1 {
		t.Errorf("images of the project: %v", list)
	}
	if out := o.do("image", "build"); !strings.Contains(out, "is up to date") {
		t.Errorf("the build again says %s", out)
	}
	o.cluster()
}

// cluster makes machines and sees them become a cluster.
func (o operator) cluster() {
	o.t.Helper()
	start := time.Now()
	o.do("up", "--yes")
	machines := o.ready()
	o.t.Logf("from up to %d machines ready: %.0f s", machines, time.Since(start).Seconds())
	o.runsUnit()
	if out := o.do("up", "--yes"); !strings.Contains(out, "nothing was changed") {
		o.t.Errorf("up again says %s", out)
	}
}

// ready expects all machines to report, and says how many they are.
func (o operator) ready() int {
	o.t.Helper()
	var machines []struct {
		Name  string `json:"name"`
		Alive bool   `json:"alive"`
	}
	if err := json.Unmarshal([]byte(o.do("list-machines", "-o", "json")), &machines); err != nil {
		o.t.Fatal(err)
	}
	if len(machines) == 0 {
		o.t.Fatal("no machine is in the cluster")
	}
	for _, m := range machines {
		if !m.Alive {
			o.t.Errorf("machine %s does not report", m.Name)
		}
	}
	return len(machines)
}

// runsUnit starts a unit and sees it run.
func (o operator) runsUnit() {
	o.t.Helper()
	unit := filepath.Join(o.t.TempDir(), "tick.service")
	if err := os.WriteFile(unit, []byte("[Service]\nExecStart=/bin/sleep infinity\n"), 0o644); err != nil {
		o.t.Fatal(err)
	}
	o.do("start", unit)
	if out := o.do("list-units", "--fields", "unit,active"); !strings.Contains(strings.Join(strings.Fields(out), " "), "tick.service active") {
		o.t.Errorf("the unit does not run:\n%s", out)
	}
}
