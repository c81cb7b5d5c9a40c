//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tour is the script of the README's tour: its indented lines.
func tour(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(repo(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "\n## A tour")
	if !ok {
		t.Fatal("the README has no tour")
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var script strings.Builder
	for line := range strings.Lines(rest) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			script.WriteString(command)
		}
	}
	return script.String()
}

// takeTour does what the README proposes, on a cluster that has the hello app,
// as a reader would: from the source tree, one line after the other.
func (c *cluster) takeTour(url string) {
	t := c.t
	t.Helper()
	if err := os.Symlink(filepath.Join(repo(), "bin"), filepath.Join(c.dir, "bin")); err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer(
		"http://…/", url,
		"demo-core-4", c.machine(3),
		" elk", " hello", // has the same front and instances, and is built sooner
		"journal -f", "journal", // which has no end
		"bin/plasmid up\n", "bin/plasmid up -y\n", // nobody is there to be asked
	).Replace(tour(t))
	if n := len(regexp.MustCompile(`(?m)^bin/plasmid `).FindAllString(script, -1)); n < 10 {
		t.Fatalf("the tour has %d commands:\n%s", n, script)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euxc", script)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), c.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"Hello from instance", "tick.service", "sinatra@3.service"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output has no %q:\n%s", want, out)
		}
	}
}
