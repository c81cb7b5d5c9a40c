//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDiscovery looks up services by name, gives an app secrets, and renders
// templates on the node.
func TestDiscovery(t *testing.T) {
	c := newCluster(t, "e2edisc", fmt.Sprintf("nodes \"core\" {\n  count = 1\n  etcd = 1\n}\napp \"hello\" {\n  source = %q\n  vars = { instances = 2 }\n}", filepath.Join(repo(), "apps/hello")))
	url := front(t, c.mustRun("up", "--yes"))
	c.until(30*time.Second, "two instances answer", func() error { return wantInstances(url, "1", "2") })
	m := c.machine(1)
	c.setSecret("hello", "early", "a secret of before")
	image := strings.TrimSpace(c.in(m, "docker inspect --format '{{.Image}}' sinatra-1"))
	inContainer := func(args string) string {
		return c.in(m, "docker run --rm --network bridge --volume /run/plasmid/apps/hello:/run/app:ro "+args)
	}
	ip := strings.Fields(c.in(m, "docker exec nginx grep -o 'server [0-9.]*:5001' /etc/nginx/nginx.conf"))[1]
	ip, _, _ = strings.Cut(ip, ":")

	t.Run("names on the host", func(t *testing.T) {
		for _, name := range []string{"sinatra.hello.plasmid", "2.sinatra.hello.plasmid"} {
			if out := c.in(m, "getent ahostsv4 "+name); !strings.HasPrefix(out, ip+" ") {
				t.Errorf("%s is %q, want %s", name, out, ip)
			}
		}
		out := c.in(m, "resolvectl --legend=no query --type SRV _sinatra._tcp.hello.plasmid")
		for _, want := range []string{"5001", "5002"} {
			if !strings.Contains(out, want) {
				t.Errorf("the SRV records lack port %s:\n%s", want, out)
			}
		}
		if out, err := c.run("local", "exec", m, "getent", "ahostsv4", "missing.hello.plasmid"); err == nil {
			t.Errorf("a service that does not exist is %q", out)
		}
	})

	t.Run("names in containers", func(t *testing.T) {
		if out := inContainer(image + " getent ahostsv4 sinatra.hello.plasmid"); !strings.HasPrefix(out, ip+" ") {
			t.Errorf("in a container the name is %q, want %s", out, ip)
		}
		c.in(m, "docker network create e2e >/dev/null")
		if out := c.in(m, "docker run --rm --network e2e "+image+" getent ahostsv4 sinatra.hello.plasmid"); !strings.HasPrefix(out, ip+" ") {
			t.Errorf("in a network of its own the name is %q, want %s", out, ip)
		}
	})

	t.Run("no resolver for others", func(t *testing.T) {
		for line := range strings.Lines(c.in(m, "ss -Hlntu")) {
			f := strings.Fields(line)
			host, port, _ := strings.Cut(strings.Replace(f[4], "%lo", "", 1), ":")
			if (port == "53" || port == "7482") && !strings.HasPrefix(host, "127.") && host != "172.17.0.1" {
				t.Errorf("DNS is answered at %s", f[4])
			}
		}
	})

	t.Run("names go with their units", func(t *testing.T) {
		c.mustRun("stop", "sinatra@1.service", "sinatra@2.service")
		begun := time.Now()
		c.until(5*time.Second, "the name is gone", func() error {
			if out, err := c.run("local", "exec", m, "getent", "ahostsv4", "sinatra.hello.plasmid"); err == nil {
				return fmt.Errorf("it is still %q", out)
			}
			return nil
		})
		t.Logf("the name was gone %v after the units were stopped", time.Since(begun).Round(time.Millisecond))
		c.mustRun("start", "sinatra@1.service", "sinatra@2.service")
		c.until(20*time.Second, "both answer", func() error { return wantInstances(url, "1", "2") })
	})

	t.Run("secrets", func(t *testing.T) {
		const secret = "Zq7-hidden-from-all"
		c.setSecret("hello", "password", secret)
		c.mustSetSecret(secret+"-nobody", "secret", "set", "hello", "for-nobody", "--uid", "65534")
		read := func(user, name string) (string, error) {
			return c.run("local", "exec", m, "docker", "run", "--rm", "--user", user, "--volume", "/run/plasmid/apps/hello:/run/app:ro", image, "cat", "/run/app/secrets/"+name)
		}
		c.until(5*time.Second, "the secret is there", func() error {
			out, err := read("0", "password")
			if err == nil && out != secret {
				err = fmt.Errorf("it is %q", out)
			}
			return err
		})
		if out, err := read("0", "early"); err != nil || out != "a secret of before" {
			t.Errorf("the early secret: %q %v", out, err)
		}
		if out, err := read("65534", "for-nobody"); err != nil || out != secret+"-nobody" {
			t.Errorf("as the user that may: %q %v", out, err)
		}
		for _, name := range []string{"password", "../client.key"} {
			if out, err := read("65534", name); err == nil {
				t.Errorf("another user reads %s: %q", name, out)
			}
		}
		list := c.mustRun("secret", "list", "hello")
		if !strings.Contains(list, "password") || strings.Contains(list, secret) {
			t.Errorf("the list:\n%s", list)
		}
		for what, command := range map[string]string{
			"a file on disk that others can read": "find / -xdev -type f -perm /044 -newer /etc/plasmid/node.json -size -1M -exec grep -l '" + secret[:3] + "[-]hidden' {} + 2>/dev/null || true",
			"arguments or environments":           "grep -l '" + secret[:3] + "[-]hidden' /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || true",
			"the journal":                         "journalctl --no-pager | grep '" + secret[:3] + "[-]hidden' || true",
			"docker inspect":                      "docker inspect $(docker ps -aq) | grep '" + secret[:3] + "[-]hidden' || true",
			"a file system that is no tmpfs":      "stat --file-system --format %T /run/plasmid/apps/hello/secrets | grep -v tmpfs || true",
		} {
			if out := c.in(m, command); out != "" {
				t.Errorf("in %s:\n%s", what, out)
			}
		}
		etcdctl := "cd /run/plasmid/apps/hello && . ./env && export ETCDCTL_API=3 && etcdctl --endpoints $ETCD_ENDPOINTS --cacert ca.crt --cert client.crt --key client.key "
		if out, err := c.run("local", "exec", m, "sh", "-euc", etcdctl+"get --prefix /plasmid/apps/hello/secrets/"); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("the app reads the store's secrets: %s %v", out, err)
		}
		c.mustRun("secret", "rm", "hello", "password")
		c.until(5*time.Second, "the secret is gone", func() error {
			if out, err := read("0", "password"); err == nil {
				return fmt.Errorf("it is still %q", out)
			}
			return nil
		})
	})

	t.Run("templates of the node", func(t *testing.T) {
		c.in(m, `mkdir -p /etc/plasmid/confd/conf.d /etc/plasmid/confd/templates
printf '[template]\nsrc = "a"\ndest = "/run/e2e-out"\nkeys = ["/apps/hello"]\n' > /etc/plasmid/confd/conf.d/a.toml
printf '{{range gets "/apps/hello/sinatra/*"}}{{base .Key}} {{end}}' > /etc/plasmid/confd/templates/a
systemctl restart plasmidd`)
		want := func(text string) {
			t.Helper()
			c.until(20*time.Second, "the file says "+text, func() error {
				if out := c.in(m, "cat /run/e2e-out 2>/dev/null || true"); strings.TrimSpace(out) != text {
					return fmt.Errorf("it says %q", out)
				}
				return nil
			})
		}
		want("1 2")
		c.mustRun("stop", "sinatra@2.service")
		want("1")
	})

	t.Run("destroy takes the app's files", func(t *testing.T) {
		c.mustRun("app", "destroy", "--yes", "hello")
		c.until(5*time.Second, "no file of the app is left", func() error {
			if out := c.in(m, "ls -A /run/plasmid/apps"); out != "" {
				return fmt.Errorf("there is %s", out)
			}
			return nil
		})
	})
}

func (c *cluster) setSecret(app, name, value string) {
	c.t.Helper()
	c.mustSetSecret(value, "secret", "set", app, name)
}

// mustSetSecret runs a command with a secret on its standard input.
func (c *cluster) mustSetSecret(value string, args ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := c.command(ctx, args...)
	cmd.Stdin = bytes.NewReader([]byte(value))
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("plasmid %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
