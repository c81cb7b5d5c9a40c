//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// front finds the URL in what up or app deploy printed.
func front(t *testing.T, out string) string {
	t.Helper()
	for line := range strings.Lines(out) {
		if url, ok := strings.CutPrefix(strings.TrimSpace(line), "front: "); ok {
			return url
		}
	}
	t.Fatalf("no front in:\n%s", out)
	return ""
}

func get(url string) (int, string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// answering returns the instances that answer ten requests.
func answering(url string) (map[string]bool, error) {
	seen := map[string]bool{}
	for range 10 {
		code, body, err := get(url)
		if err != nil {
			return nil, err
		}
		if code != http.StatusOK {
			return nil, fmt.Errorf("%d: %s", code, body)
		}
		instance, _, _ := strings.Cut(strings.TrimPrefix(body, "Hello from instance "), " ")
		seen[instance] = true
	}
	return seen, nil
}

func wantInstances(url string, want ...string) error {
	seen, err := answering(url)
	if err != nil {
		return err
	}
	have := slices.Sorted(maps.Keys(seen))
	if !slices.Equal(have, want) {
		return fmt.Errorf("instances %v answer, want %v", have, want)
	}
	return nil
}

// helloApp is the part of a cluster file that has the sample app.
func helloApp() string {
	return fmt.Sprintf("\napp \"hello\" { source = %q }", filepath.Join(repo(), "apps/hello"))
}

// TestHello deploys the sample app, and takes instances and a machine away.
func TestHello(t *testing.T) {
	c := newCluster(t, "e2eapp", threeMachines+helloApp())
	url := front(t, c.mustRun("up", "--yes"))
	all := []string{c.machine(1), c.machine(2), c.machine(3)}
	five := []string{"1", "2", "3", "4", "5"}

	c.until(30*time.Second, "five instances answer", func() error { return wantInstances(url, five...) })

	t.Run("again changes nothing", func(t *testing.T) {
		before := c.invocations("sinatra@")
		start := time.Now()
		if out := c.mustRun("up", "--yes"); !strings.Contains(out, "nothing was changed") || time.Since(start) > 5*time.Second {
			t.Errorf("up again took %v and said:\n%s", time.Since(start), out)
		}
		if after := c.invocations("sinatra@"); !maps.Equal(before, after) {
			t.Errorf("units were touched:\n%v\n%v", before, after)
		}
	})

	// As it is when every machine was replaced by one with a new image.
	t.Run("images that were lost are handed out again", func(t *testing.T) {
		for _, m := range all {
			c.in(m, "rm /var/lib/plasmid/images/sha256/*")
		}
		if out := c.mustRun("app", "deploy", "hello"); !strings.Contains(out, "nothing was changed") {
			t.Errorf("deploy:\n%s", out)
		}
		for _, m := range all {
			if out := c.in(m, "ls /var/lib/plasmid/images/sha256"); out == "" {
				t.Errorf("%s has no images", m)
			}
		}
	})

	t.Run("no secret where it can be seen", func(t *testing.T) {
		for _, m := range all {
			if out := c.in(m, "grep -rl 'PRIVATE[ ]KEY' /proc/[0-9]*/cmdline /proc/[0-9]*/environ /var/log 2>/dev/null || true"); out != "" {
				t.Errorf("a private key shows on %s in:\n%s", m, out)
			}
			if out := c.in(m, "find /run/plasmid /etc/plasmid /var/lib/plasmid -name '*.key' -perm /077 ! -group etcd"); out != "" {
				t.Errorf("keys that others can read on %s:\n%s", m, out)
			}
		}
	})

	t.Run("an app sees its own keys only", func(t *testing.T) {
		m := ""
		at, err := c.places()
		if err != nil {
			t.Fatal(err)
		}
		m = at["nginx.service"]
		etcdctl := "cd /run/plasmid/apps/hello && . ./env && export ETCDCTL_API=3 && etcdctl --endpoints $ETCD_ENDPOINTS --cacert ca.crt --cert client.crt --key client.key "
		if out := c.in(m, etcdctl+"get --prefix --keys-only /apps/hello/sinatra/"); strings.Count(out, "/apps/hello/sinatra/") != 5 {
			t.Errorf("its own keys: %q", out)
		}
		for _, what := range []string{"get --prefix /plasmid/", "get --prefix /apps/other/", "put /plasmid/x y", "member list -w json && " + etcdctl + "member remove 1"} {
			if out, err := c.run("local", "exec", m, "sh", "-euc", etcdctl+what); err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("%s: %s %v, want permission denied", what, out, err)
			}
		}
	})

	t.Run("instances come and go", func(t *testing.T) {
		c.mustRun("stop", "sinatra@2.service", "sinatra@4.service")
		took := c.until(10*time.Second, "three instances answer", func() error { return wantInstances(url, "1", "3", "5") })
		t.Logf("nginx forgot two instances after %v", took.Round(10*time.Millisecond))
		c.mustRun("stop", "sinatra@1.service", "sinatra@3.service", "sinatra@5.service")
		c.until(10*time.Second, "nginx says that none is there", func() error {
			code, body, err := get(url)
			if err != nil || code != http.StatusServiceUnavailable {
				return fmt.Errorf("%d %s %v", code, body, err)
			}
			return nil
		})
		c.mustRun("start", "sinatra@1.service", "sinatra@2.service", "sinatra@3.service", "sinatra@4.service", "sinatra@5.service")
		c.until(20*time.Second, "five instances answer", func() error { return wantInstances(url, five...) })
	})

	t.Run("a restart of plasmidd drops no registration", func(t *testing.T) {
		stop := make(chan struct{})
		failed := make(chan error, 1)
		go func() {
			defer close(failed)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if code, body, err := get(url); err != nil || code != http.StatusOK {
					failed <- fmt.Errorf("%d %s %v", code, body, err)
					return
				}
			}
		}()
		for _, m := range all {
			c.in(m, "systemctl restart plasmidd")
		}
		time.Sleep(5 * time.Second) // longer than the lease
		close(stop)
		if err := <-failed; err != nil {
			t.Errorf("a request failed meanwhile: %v", err)
		}
		if err := wantInstances(url, five...); err != nil {
			t.Error(err)
		}
	})

	t.Run("docker's limits hold", func(t *testing.T) {
		out := c.in(c.machine(1), "docker info --format '{{json .}}' 2>/dev/null")
		for _, want := range []string{`"MemoryLimit":true`, `"CpuCfsQuota":true`} {
			if !strings.Contains(out, want) {
				t.Errorf("docker info lacks %s", want)
			}
		}
		image := strings.TrimSpace(c.in(c.machine(1), "docker images -q | head -n 1"))
		if out, err := c.run("local", "exec", c.machine(1), "docker", "run", "--rm", "--memory", "16m", "--memory-swap", "16m", image, "sh", "-c", "head -c 200m /dev/zero | tail >/dev/null"); err == nil {
			t.Errorf("a container took more memory than its limit: %s", out)
		}
	})

	t.Run("a lost machine", func(t *testing.T) {
		at, err := c.places()
		if err != nil {
			t.Fatal(err)
		}
		victim := ""
		for _, m := range all {
			if m != at["nginx.service"] {
				victim = m
			}
		}
		c.mustRun("local", "power-off", victim)
		took := c.until(60*time.Second, "five instances answer again", func() error { return wantInstances(url, five...) })
		t.Logf("all five answer %v after a machine was lost", took.Round(100*time.Millisecond))
		c.mustRun("up", "--yes")
		c.until(60*time.Second, victim+" is back", func() error {
			for _, m := range c.machines() {
				if m.Name == victim && m.Alive {
					return nil
				}
			}
			return errors.New("it does not report")
		})
	})

	t.Run("the README's tour", func(t *testing.T) {
		c.until(30*time.Second, "five instances answer", func() error { return wantInstances(url, five...) })
		c.takeTour(url)
	})

	t.Run("destroy", func(t *testing.T) {
		c.mustRun("app", "destroy", "--yes", "hello")
		if n := len(c.units()); n != 0 {
			t.Errorf("%d units are left", n)
		}
	})
}
