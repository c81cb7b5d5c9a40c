//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// elk is the ELK app on a cluster.
type elk struct {
	*cluster
	machines []string
	page     string // URL
}

// lines counts what the Sinatra instances have written, on the volumes of all
// machines.
func (e *elk) lines() int {
	e.t.Helper()
	total := 0
	for _, m := range e.machines {
		out := e.in(m, "cat /var/lib/docker/volumes/elk-sinatra-*/_data/*.log* 2>/dev/null | wc -l")
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			e.t.Fatal(err)
		}
		total += n
	}
	return total
}

// ask asks the page's API.
func (e *elk) ask(question string, q url.Values) (string, error) {
	code, body, err := get(e.page + "api/" + question + "?" + q.Encode())
	if err != nil || code != http.StatusOK {
		return "", fmt.Errorf("%s: %d %.200s %w", question, code, body, err)
	}
	return body, nil
}

// events counts the store's events, all and different ones.
func (e *elk) events() (all, different int, err error) {
	count := func(query string) (int, error) {
		body, err := e.ask("query", url.Values{"query": {query}, "limit": {"10"}})
		if err != nil {
			return 0, err
		}
		var row struct{ N string }
		if err := json.Unmarshal([]byte(body), &row); err != nil {
			return 0, fmt.Errorf("%q: %w", body, err)
		}
		return strconv.Atoi(row.N)
	}
	if all, err = count("app:=sinatra | stats count() n"); err != nil {
		return 0, 0, err
	}
	different, err = count("app:=sinatra | stats by (source, offset) count() c | stats count() n")
	return all, different, err
}

// exact stops the traffic and waits until each line is an event, once.
func (e *elk) exact(what string) {
	e.t.Helper()
	e.mustRun("stop", "traffic.service")
	lines := e.lines()
	took := e.until(90*time.Second, "every line is an event", func() error {
		all, different, err := e.events()
		if err != nil {
			return err
		}
		if all > lines {
			lines = e.lines() // the last requests have come to an end
		}
		if lines == 0 || all != lines || different != lines {
			return fmt.Errorf("%d lines, %d events, %d of them different", lines, all, different)
		}
		return nil
	})
	if now := e.lines(); now != lines {
		e.t.Errorf("%s: %d lines while there is no traffic, %d before", what, now, lines)
	}
	e.t.Logf("%s: %d lines written, %d events stored (settled after %v)", what, lines, lines, took.Round(100*time.Millisecond))
	e.mustRun("start", "traffic.service")
}

func (e *elk) site() string { return strings.TrimSuffix(e.page, "logs/") }

// instances waits until these instances, and no other, answer through nginx.
func (e *elk) instances(want ...string) time.Duration {
	e.t.Helper()
	return e.until(60*time.Second, fmt.Sprintf("instances %v answer", want), func() error {
		if len(want) == 0 {
			code, body, err := get(e.site())
			if err != nil || code != http.StatusServiceUnavailable {
				return fmt.Errorf("%d %s %w", code, body, err)
			}
			return nil
		}
		// The traffic takes turns too, so ten requests for each may be needed.
		seen := map[string]bool{}
		for range 2 * len(want) {
			some, err := answering(e.site())
			if err != nil {
				return err
			}
			maps.Copy(seen, some)
			if len(seen) > len(want) {
				break
			}
		}
		if have := slices.Sorted(maps.Keys(seen)); !slices.Equal(have, want) {
			return fmt.Errorf("instances %v answer, want %v", have, want)
		}
		return nil
	})
}

// browse opens the page in a real browser and returns what is then in it.
func (e *elk) browse(fragment, screenshot string) string {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args := []string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-background-networking",
		"--user-data-dir=" + e.t.TempDir(), "--enable-logging=stderr", "--window-size=1300,900", "--virtual-time-budget=6000"}
	if screenshot != "" {
		args = append(args, "--screenshot="+screenshot)
	} else {
		args = append(args, "--dump-dom")
	}
	cmd := exec.CommandContext(ctx, "chromium", append(args, e.page+"#"+fragment)...)
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		e.t.Fatalf("chromium: %v\n%s", err, errs.String())
	}
	for line := range strings.Lines(errs.String()) {
		// That the store refuses a query is what one of the tests is about.
		if strings.Contains(line, "CONSOLE") && !strings.Contains(line, "status of 400") {
			e.t.Errorf("the browser complains: %s", line)
		}
	}
	return out.String()
}

var total = regexp.MustCompile(`<output[^>]* data-total="(\d+)"`)

func totalIn(t *testing.T, dom string) int {
	t.Helper()
	m := total.FindStringSubmatch(dom)
	if m == nil {
		t.Fatalf("the page shows no total:\n%.3000s", dom)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// kept copies the app, with the lines that docs/elk.md tells to add where no
// machine's loss may lose a line, and returns the directory.
func kept(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "elk")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(repo(), "apps/elk"))); err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(mustRead(t, filepath.Join(repo(), "docs/elk.md"))), "\n## When a machine is lost\n")
	section, _, _ = strings.Cut(section, "\n## ")
	added := regexp.MustCompile("`units/(\\S+)`:\n\n((?:    .*\n)+)").FindAllStringSubmatch(section, -1)
	if len(added) != 2 {
		t.Fatalf("docs/elk.md adds to %d units", len(added))
	}
	for _, a := range added {
		file := filepath.Join(dir, "units", a[1])
		text := append(mustRead(t, file), "\n"+strings.ReplaceAll(a[2], "    ", "")...)
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fiveMachines are those of the example, of which one is to have the store.
const fiveMachines = `nodes "core" {
  count = 4
  etcd = 3
  metadata = { role = "core" }
}
nodes "store" {
  count = 1
  metadata = { role = "store" }
}`

// ready waits until these units are ready, each on one machine.
func (e *elk) ready(limit time.Duration, units ...string) {
	e.t.Helper()
	e.until(limit, strings.Join(units, ", ")+" are ready", func() error {
		list, err := e.tryUnits()
		if err != nil {
			return err
		}
		n := 0
		for _, u := range list {
			if !slices.Contains(units, u.Name) {
				continue
			}
			n++
			if len(u.On) != 1 || u.On[0].State == nil || !u.On[0].State.Ready || u.On[0].Silent {
				return fmt.Errorf("%s is on %d machines, and not ready", u.Name, len(u.On))
			}
		}
		if n != len(units) {
			return fmt.Errorf("%d of %d are there", n, len(units))
		}
		return nil
	})
}

// moved finds the page again: nginx may be on another machine than it was.
func (e *elk) moved() {
	e.t.Helper()
	var status struct{ Front string }
	if err := json.Unmarshal([]byte(e.mustRun("app", "status", "elk", "-o", "json")), &status); err != nil || status.Front == "" {
		e.t.Fatalf("no front: %v", err)
	}
	e.page = status.Front
}

// lose takes a machine's power, waits until the cluster has given it up, and
// starts it again.
func (e *elk) lose(m string, units []string) {
	e.t.Helper()
	alive := func(want bool) func() error {
		return func() error {
			for _, have := range e.cluster.machines() {
				if have.Name == m && have.Alive == want {
					return nil
				}
			}
			return fmt.Errorf("it is not so yet")
		}
	}
	e.mustRun("local", "power-off", m)
	e.until(60*time.Second, m+" is given up", alive(false))
	e.mustRun("local", "power-on", m)
	e.until(60*time.Second, m+" is back", alive(true))
	e.ready(2*time.Minute, units...)
	e.moved()
}

func containerOf(unit string) string {
	return "elk-" + strings.NewReplacer(".service", "", "@", "-").Replace(unit)
}

// nine are the app's units.
var nine = []string{"store.service", "collector.service", "sinatra@1.service", "sinatra@2.service", "sinatra@3.service", "sinatra@4.service", "sinatra@5.service", "nginx.service", "traffic.service"}

// TestElk deploys the ELK app on five machines and takes it apart.
func TestElk(t *testing.T) {
	source := kept(t)
	app := func(vars string) string {
		return fiveMachines + fmt.Sprintf("\napp \"elk\" {\nsource = %q\nvars = { pause = \"100ms\"%s }\n}", source, vars)
	}
	c := newCluster(t, "e2eelk", app(""))
	begun := time.Now()
	e := &elk{cluster: c, page: front(t, c.mustRun("up", "--yes"))}
	t.Logf("up took %v", time.Since(begun).Round(100*time.Millisecond))
	e.machines = []string{c.machine(1), c.machine(2), c.machine(3), c.machine(4), "e2eelk-store-1"}
	e.instances("1", "2", "3", "4", "5")

	t.Run("again changes nothing", func(t *testing.T) {
		if out := c.mustRun("app", "diff", "elk"); !strings.Contains(out, "is as its directory says") {
			t.Errorf("diff:\n%s", out)
		}
		if out := c.mustRun("app", "deploy", "elk"); !strings.Contains(out, "nothing was changed") {
			t.Errorf("deploy:\n%s", out)
		}
	})

	t.Run("the page shows the traffic", func(t *testing.T) {
		e.until(30*time.Second, "events", func() error {
			if all, _, err := e.events(); err != nil || all < 100 {
				return fmt.Errorf("%d events, %w", all, err)
			}
			return nil
		})
		dom := e.browse("", "")
		all := totalIn(t, dom)
		if rows := strings.Count(dom, "<tr title="); all < 100 || rows != 100 {
			t.Errorf("%d events and %d rows are shown", all, rows)
		}
		for _, want := range []string{"<canvas", `data-field="status" data-value="404"`, `data-field="instance" data-value="3"`, `data-field="path" data-value="/cart"`, `<td class="s2">200</td>`} {
			if !strings.Contains(dom, want) {
				t.Errorf("the page lacks %s", want)
			}
		}
		missing := e.browse("q="+url.QueryEscape("path:/missing")+"&f="+url.QueryEscape("status=404"), "")
		if n := totalIn(t, missing); n == 0 || n >= all || strings.Contains(missing, `<td class="s2">`) || !strings.Contains(missing, `<td class="s4">404</td>`) {
			t.Errorf("the search for what is missing finds %d of %d", n, all)
		}
		if bad := e.browse("q="+url.QueryEscape("((("), ""); !regexp.MustCompile(`<p id="problem" role="alert">[^<]+</p>`).MatchString(bad) {
			t.Error("a query that is wrong is not told of")
		}
	})

	t.Run("keys are where they belong", func(t *testing.T) {
		for _, m := range e.machines {
			if out := e.in(m, "grep -rl 'PRIVATE[ ]KEY' /proc/[0-9]*/cmdline /proc/[0-9]*/environ /var/log 2>/dev/null || true"); out != "" {
				t.Errorf("a private key shows on %s in:\n%s", m, out)
			}
		}
		at, err := c.places()
		if err != nil {
			t.Fatal(err)
		}
		keys := e.in(at["nginx.service"], "cd /run/plasmid/apps/elk && . ./env && ETCDCTL_API=3 etcdctl --endpoints $ETCD_ENDPOINTS --cacert ca.crt --cert client.crt --key client.key get --prefix /apps/elk/")
		if strings.Contains(keys, "PRIVATE") || !strings.Contains(keys, "/apps/elk/collector\n") {
			t.Errorf("the app's keys:\n%s", keys)
		}
	})

	// For docs/elk.md; only what a user would notice is held against limits.
	t.Run("figures", func(t *testing.T) {
		at, err := c.places()
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range nine {
			container := containerOf(u)
			t.Logf("memory: %s", strings.TrimSpace(e.in(at[u], "docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' "+container)))
		}
		var built []struct{ Name, Layout string }
		if err := json.Unmarshal([]byte(c.mustRun("app", "build", "elk", "-o", "json")), &built); err != nil {
			t.Fatal(err)
		}
		shared := map[string]int64{} // blobs of all images
		for _, b := range built {
			size := int64(0)
			err := filepath.WalkDir(filepath.Join(b.Layout, "blobs"), func(path string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				info, err := d.Info()
				if err == nil {
					size += info.Size()
					shared[d.Name()] = info.Size()
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("image: %s %d MB", b.Name, size/1e6)
		}
		all := int64(0)
		for _, size := range shared {
			all += size
		}
		t.Logf("image: all together, with the layers they share, %d MB", all/1e6)

		for range 5 {
			out := c.mustRun("local", "exec", at["sinatra@1.service"], "bash", "-euc", `
cd /run/plasmid/apps/elk; . ./env; export ETCDCTL_API=3
key() { etcdctl --endpoints $ETCD_ENDPOINTS --cacert ca.crt --cert client.crt --key client.key get --print-value-only /apps/elk/sinatra/1; }
now() { date +%s%3N; }
container=elk-sinatra-1
key >/dev/null # the address is known
begun=$(now); docker kill $container >/dev/null
while [ "$(key)" ]; do :; done; gone=$(now)
until port=$(docker port $container 5000 2>/dev/null) && (exec 3<>/dev/tcp/${port%:*}/${port##*:} && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 && grep -q ' 200 ' <&3) 2>/dev/null; do :; done; healthy=$(now)
until [ "$(key)" ]; do :; done
echo $((gone - begun)) $((healthy - begun)) $(($(now) - healthy))`)
			var gone, healthy, registered int
			if _, err := fmt.Sscan(out, &gone, &healthy, &registered); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			t.Logf("killed: its key is gone after %d ms; it answers after %d ms, and its key is there %d ms later", gone, healthy, registered)
			if gone > 2000 || registered > 2000 {
				t.Errorf("a key that is gone after %d ms and there after %d", gone, registered)
			}
		}
	})

	t.Run("every container is killed once", func(t *testing.T) {
		for name, m := range func() map[string]string {
			at, err := c.places()
			if err != nil {
				t.Fatal(err)
			}
			return at
		}() {
			container := containerOf(name)
			e.in(m, "docker kill "+container+" >/dev/null")
			e.until(60*time.Second, container+" runs again", func() error {
				if !strings.Contains("\n"+e.in(m, "docker ps --format '{{.Names}}'"), "\n"+container+"\n") {
					return errors.New("it does not")
				}
				return nil
			})
			e.ready(60*time.Second, name)
		}
		e.instances("1", "2", "3", "4", "5")
		e.exact("every container killed")
	})

	t.Run("every machine is killed once", func(t *testing.T) {
		for _, m := range e.machines {
			e.lose(m, nine)
		}
		e.instances("1", "2", "3", "4", "5")
		e.exact("every machine killed")
	})

	t.Run("cold start in any order", func(t *testing.T) {
		backward := slices.Clone(nine)
		slices.Reverse(backward)
		for _, order := range [][]string{nine, backward} {
			c.mustRun(append([]string{"stop"}, nine...)...)
			// Each by itself: nothing tells the cluster that there is an order.
			for _, u := range order {
				c.mustRun("start", "--no-block", u)
			}
			e.ready(2*time.Minute, nine...)
			e.moved()
			e.instances("1", "2", "3", "4", "5")
		}
		e.exact("started in any order")
	})

	t.Run("scale", func(t *testing.T) {
		for _, n := range []int{1, 5, 0, 3} {
			out := c.mustRun("app", "scale", "elk", "sinatra="+strconv.Itoa(n))
			took := e.instances([]string{"1", "2", "3", "4", "5"}[:n]...)
			t.Logf("%s: nginx has it %v later", strings.TrimSpace(out), took.Round(10*time.Millisecond))
		}
		if out := c.mustRun("app", "diff"); !strings.Contains(out, "+ unit sinatra@4.service") {
			t.Errorf("diff after scaling:\n%s", out)
		}
		e.exact("after scaling 5, 1, 5, 0, 3")
	})

	t.Run("a rolling change fails no request", func(t *testing.T) {
		stop, failed := make(chan struct{}), make(chan error, 1)
		asked := 0
		go func() {
			defer close(failed)
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked++
				if code, body, err := get(e.site()); err != nil || code != http.StatusOK {
					failed <- fmt.Errorf("request %d: %d %s %w", asked, code, body, err)
					return
				}
			}
		}()
		c.write(app(", instances = 3"))
		edit(t, filepath.Join(source, "images/sinatra/app.rb"), "# A shop", "# Another shop")
		if diff := c.mustRun("app", "diff", "elk"); strings.Count(diff, "+Environment=IMAGE_SINATRA=") != 3 || !strings.Contains(diff, "0 to add, 3 to change") {
			t.Errorf("diff:\n%s", diff)
		}
		out := c.mustRun("app", "deploy", "--yes", "elk")
		t.Log(strings.TrimSpace(out))
		if !strings.Contains(out, "3 units changed") {
			t.Errorf("deploy:\n%s", out)
		}

		// And one that does not work is taken back.
		edit(t, filepath.Join(source, "app.hcl"), "count = var.instances", "count = var.instances\n    timeout = \"20s\"")
		edit(t, filepath.Join(source, "units/sinatra@.service"), "Ready=http://:5000/health", "Ready=http://:5000/nowhere")
		if out, err := c.run("app", "deploy", "--yes", "elk"); err == nil || !strings.Contains(err.Error(), "runs as it did before") {
			t.Errorf("a version that is never ready: %s %v", out, err)
		}
		close(stop)
		if err := <-failed; err != nil {
			t.Errorf("a request failed meanwhile: %v", err)
		}
		t.Logf("%d requests, none failed", asked)
		e.instances("1", "2", "3")
	})

	t.Run("logs", func(t *testing.T) {
		if out := c.mustRun("app", "logs", "elk"); !strings.Contains(out, "store.service ") || !strings.Contains(out, "sinatra@3.service ") {
			t.Errorf("logs:\n%.2000s", out)
		}
		if _, err := c.run("app", "logs", "elk", "nothing"); err == nil {
			t.Error("logs of a unit that is not there")
		}
	})

	t.Run("the store keeps its data", func(t *testing.T) {
		before, _, err := e.events()
		if err != nil {
			t.Fatal(err)
		}
		c.mustRun("restart", "store.service")
		e.until(60*time.Second, "the store answers", func() error {
			after, _, err := e.events()
			if err == nil && after < before {
				err = fmt.Errorf("%d of %d events are left", after, before)
			}
			return err
		})
		e.exact("after a restart of the store")
		if picture := os.Getenv("PLASMID_SCREENSHOT"); picture != "" {
			e.browse("", picture) // for docs/elk.md
		}
	})

	t.Run("destroy", func(t *testing.T) {
		c.mustRun("app", "destroy", "--yes", "elk")
		if n := len(c.units()); n != 0 {
			t.Errorf("%d units are left", n)
		}
	})
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
