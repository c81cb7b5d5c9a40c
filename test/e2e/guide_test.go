//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// writeGuide writes the files of the guide in docs/apps.md, as a reader would.
func writeGuide(t *testing.T, dir string) {
	t.Helper()
	page := string(mustRead(t, filepath.Join(repo(), "docs/apps.md")))
	guide, _, _ := strings.Cut(page, "\n## Commands\n")
	indent := regexp.MustCompile("(?m)^    ")
	files := regexp.MustCompile("`([A-Za-z./]+)`[^`\n]*:\n\n((?:    .*\n|\n)+)").FindAllStringSubmatch(guide, -1)
	written := 0
	for _, f := range files {
		if f[1] == "cluster" {
			continue // a block of cluster.hcl
		}
		written++
		name := filepath.Join(dir, f[1])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.Contains(guide, "`chmod +x "+f[1]+"`") {
			mode = 0o755
		}
		if err := os.WriteFile(name, []byte(strings.TrimSpace(indent.ReplaceAllString(f[2], ""))+"\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if written != 9 {
		t.Fatalf("the guide has %d files", written)
	}
}

// edit changes a file of an app.
func edit(t *testing.T, file, old, new string) {
	t.Helper()
	text := string(mustRead(t, file))
	if !strings.Contains(text, old) {
		t.Fatalf("%s has no %q", file, old)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(text, old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestGuide builds and deploys the guide's app of two services.
func TestGuide(t *testing.T) {
	one := "nodes \"core\" {\n  count = 1\n  etcd = 1\n}\n"
	c := newCluster(t, "e2eguide", one)
	c.mustRun("up", "--yes")
	visits := filepath.Join(c.dir, "visits")
	writeGuide(t, visits)
	c.write(one + `app "visits" { source = "visits" }`)
	out := c.mustRun("app", "deploy", "--yes", "visits")
	url := front(t, out)
	count := func(want int) {
		t.Helper()
		c.until(20*time.Second, fmt.Sprintf("%d visits", want), func() error {
			code, body, err := get(url)
			if err != nil || code == 503 {
				return fmt.Errorf("%d %s %v", code, body, err)
			}
			if body != fmt.Sprintf("%d visits\n", want) {
				t.Fatalf("%d %s", code, body)
			}
			return nil
		})
	}
	count(1)
	count(2)

	t.Run("a change replaces the counter alone", func(t *testing.T) {
		before := c.invocations("")
		edit(t, filepath.Join(visits, "counter/counter.py"), "{n} visits", "{n:d} visits")
		if diff := c.mustRun("app", "diff", "visits"); !strings.Contains(diff, "~ unit counter.service") || !strings.Contains(diff, "0 to add, 1 to change, 0 to remove") {
			t.Errorf("diff:\n%s", diff)
		}
		c.mustRun("app", "deploy", "--yes", "visits")
		after := c.invocations("")
		if before["web.service"] != after["web.service"] || before["counter.service"] == after["counter.service"] {
			t.Errorf("before %v\nafter %v", before, after)
		}
		count(3) // the number is on a volume
	})

	t.Run("a secret that is not set", func(t *testing.T) {
		hcl := filepath.Join(visits, "app.hcl")
		edit(t, hcl, "app \"visits\" {\n", "app \"visits\" {\n  secret \"token\" {}\n")
		want := hcl + ":2: secret token is not set; set it with: plasmid secret set visits token"
		if _, err := c.run("app", "deploy", "--yes", "visits"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
		c.setSecret("visits", "token", "t0ken")
		if out := c.mustRun("app", "deploy", "--yes", "visits"); !strings.Contains(out, "nothing was changed") {
			t.Errorf("deploy:\n%s", out)
		}
	})

	// The web page's confd gets at etcd by the app's certificate, for as long as it
	// is good; it is renewed under the running container.
	t.Run("the app's certificate is renewed", func(t *testing.T) {
		m := c.machine(1)
		before := c.invocations("")["web.service"]
		const life = 15 * time.Second
		expires := time.Now().Add(life)
		short := c.giveShortAccess("visits", life)
		c.until(10*time.Second, "the short certificate is in the container", func() error {
			if have := c.in(m, "docker exec web cat /run/app/client.crt"); have != short.Cert {
				return errors.New("another is")
			}
			return nil
		})
		c.until(life+5*time.Second, "it has expired", func() error {
			if time.Now().Before(expires.Add(time.Second)) {
				return errors.New("not yet")
			}
			return nil
		})
		// Connections that are there go on; new ones are refused from now on.
		c.in(m, "systemctl restart etcd")
		c.until(30*time.Second, "etcd refuses it", func() error {
			out, err := c.run("local", "exec", m, "sh", "-euc", "cd /run/plasmid/apps/visits && . ./env && ETCDCTL_API=3 etcdctl --endpoints $ETCD_ENDPOINTS --cacert ca.crt --cert client.crt --key client.key get /apps/visits/counter")
			if err == nil {
				return fmt.Errorf("it takes it: %s", out)
			}
			if !strings.Contains(err.Error(), "certificate") && !strings.Contains(err.Error(), "deadline") {
				return err
			}
			return nil
		})
		if out := c.mustRun("app", "deploy", "--yes", "visits"); !strings.Contains(out, "nothing was changed") {
			t.Errorf("deploy:\n%s", out)
		}
		if have := c.in(m, "docker exec web cat /run/app/client.crt"); have == short.Cert {
			t.Error("the certificate was not renewed")
		}
		c.mustRun("stop", "counter.service")
		took := c.until(30*time.Second, "the web page learns that the counter is gone", func() error {
			if code, body, err := get(url); code != 503 {
				return fmt.Errorf("%d %s %v", code, body, err)
			}
			return nil
		})
		t.Logf("confd goes on with the new certificate: told of a change after %v", took.Round(10*time.Millisecond))
		c.mustRun("start", "counter.service")
		if after := c.invocations("")["web.service"]; after != before {
			t.Errorf("the web page was started again: %s, before %s", after, before)
		}
	})
}
