package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What make demo, demo-plan and demo-down call, here and on OpenStack.
func TestDemo(t *testing.T) {
	plasmid := filepath.Join(t.TempDir(), "plasmid")
	if err := os.WriteFile(plasmid, []byte("#!/bin/sh\necho \"called with $*, file $PLASMID_FILE, cloud $PLASMID_VAR_cloud\"\n[ \"$1\" != plan ] || exit 2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	const cloud = ", file openstack.hcl, cloud mycloud"
	for _, c := range []struct {
		target, cloud, image string
		want                 []string
	}{
		{"demo", "", "", []string{"image build --tree-only, file , cloud ", "up --yes, file , cloud "}},
		{"demo-down", "", "", []string{"down --yes, file , cloud "}},
		{"demo", "mycloud", "", []string{"image build" + cloud, "image push" + cloud, "up --yes" + cloud}},
		{"demo", "mycloud", "theirs", []string{"up --yes" + cloud}},
		{"demo-plan", "mycloud", "", []string{"image build" + cloud, "image push" + cloud, "plan" + cloud}},
		{"demo-down", "mycloud", "", []string{"down --yes" + cloud}},
	} {
		cmd := exec.Command("make", "--directory", "../..", "--old-file", "deps", "--old-file", "build", c.target, "PLASMID="+plasmid, "CLOUD="+c.cloud)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PLASMID_VAR_image=" + c.image}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("make %s: %v\n%s", c.target, err, out)
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			if args, ok := strings.CutPrefix(line, "called with "); ok {
				got = append(got, strings.TrimSuffix(args, "\n"))
			}
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("make %s CLOUD=%s: %q, want %q", c.target, c.cloud, got, c.want)
		}
	}
}
