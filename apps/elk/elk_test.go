// Package elk tests the files of the app: units, images and templates.
package elk

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"plasmid/provision/app"
	"plasmid/runtime/template"
	"plasmid/runtime/unit"
)

func load(t *testing.T) *app.App {
	t.Helper()
	a, err := app.Load(".", nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// specs are the units as the cluster reads them.
func specs(t *testing.T) map[string]unit.Spec {
	t.Helper()
	out := map[string]unit.Spec{}
	for _, u := range load(t).Units {
		for _, n := range u.Names {
			s, err := unit.SpecOf(n, u.Text+"\n[X-Plasmid]\nApp=elk\n")
			if err != nil {
				t.Fatal(err)
			}
			out[n] = s
		}
	}
	return out
}

// The roles and containers of the original.
func TestParts(t *testing.T) {
	all := specs(t)
	if len(all) != 9 {
		t.Errorf("%d units, want nine: store, collector, five Sinatra, nginx, traffic", len(all))
	}
	var order []string
	for _, u := range load(t).Units {
		order = append(order, u.Name)
	}
	if want := []string{"store.service", "collector.service", "sinatra@.service", "nginx.service", "traffic.service"}; !slices.Equal(order, want) {
		t.Errorf("started in the order %v, want %v", order, want)
	}
}

// Traps 2 and 3: a key comes by Register=, so with readiness and on the lease,
// and never from a command of the unit.
func TestRegistrations(t *testing.T) {
	for name, s := range specs(t) {
		if name == "traffic.service" {
			continue // nobody has to find it
		}
		if len(s.Register) == 0 || s.Ready.Kind == "" {
			t.Errorf("%s registers %v, ready by %q", name, s.Register, s.Ready.Kind)
		}
	}
}

// Traps 4, 6, 7 and 12: what the units' commands may not do.
func TestUnits(t *testing.T) {
	for _, u := range load(t).Units {
		if bad := regexp.MustCompile(`etcdctl|docker (pull|kill)|ExecStartPost|ExecStopPost|[^-]/usr/bin/docker rm`).FindString(u.Text); bad != "" {
			t.Errorf("%s has %q", u.Name, bad)
		}
		for _, want := range []string{
			"ExecStartPre=-/usr/bin/docker rm --force", // a name that an unclean end left
			"ExecStop=/usr/bin/docker stop --time",     // the container may end what it does
			"Restart=always",                           // trap 5: what failed is tried again
			"SuccessExitStatus=143",
		} {
			if !strings.Contains(u.Text, want) {
				t.Errorf("%s lacks %s", u.Name, want)
			}
		}
		if strings.Contains(u.Text, "Conflicts=") {
			t.Errorf("%s keeps instances apart by Conflicts=", u.Name)
		}
	}
}

// Trap 1: two instances never want one port of a machine.
func TestPorts(t *testing.T) {
	published := regexp.MustCompile(`--publish (\S+)`)
	taken := map[string]string{}
	for _, u := range load(t).Units {
		for _, m := range published.FindAllStringSubmatch(u.Text, -1) {
			fields := strings.Split(m[1], ":")
			host := fields[len(fields)-2]
			if len(u.Names) > 1 && host != "" {
				t.Errorf("%s: every instance wants port %s", u.Name, host)
			}
			if host == "" {
				continue // Docker chooses
			}
			if taken[host] != "" {
				t.Errorf("%s and %s want port %s", u.Name, taken[host], host)
			}
			taken[host] = u.Name
			// Only what users go to is public.
			if u.Name != "nginx.service" && fields[0] != "${PLASMID_PRIVATE_IPV4}" {
				t.Errorf("%s: port %s is on every address", u.Name, host)
			}
			if !strings.Contains(u.Text, "Ports=") {
				t.Errorf("%s does not reserve port %s", u.Name, host)
			}
		}
	}
}

// Traps 9 and 10: one certificate, of the deployment and not of a container,
// and not where apps read their keys.
func TestCertificate(t *testing.T) {
	if got := load(t).Certificates; !slices.Equal(got, []string{"lumberjack"}) {
		t.Errorf("certificates %v", got)
	}
	err := filepath.WalkDir("images", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && regexp.MustCompile(`openssl|ssl_private_key|PRIVATE KEY`).Match(data) {
			t.Errorf("%s has to do with keys", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Trap 13: what must stay is on volumes of the machine.
func TestVolumes(t *testing.T) {
	for _, u := range load(t).Units {
		want := map[string]string{"store.service": "--volume elk-store:/var/lib/store", "sinatra@.service": "--volume elk-sinatra-%i:/var/log/app"}[u.Name]
		if !strings.Contains(u.Text, want) {
			t.Errorf("%s lacks %s", u.Name, want)
		}
	}
}

// keys is a store with fixed keys.
type keys map[string]string

func (k keys) Get(_ context.Context, want []string) (map[string]string, int64, error) {
	out := map[string]string{}
	for key, v := range k {
		if slices.ContainsFunc(want, func(w string) bool { return key == w || strings.HasPrefix(key, w+"/") }) {
			out[key] = v
		}
	}
	return out, 1, nil
}

func (keys) Watch(ctx context.Context, _ []string, _ int64) error {
	<-ctx.Done()
	return ctx.Err()
}

func render(t *testing.T, image string, k keys) map[string]string {
	t.Helper()
	rs, err := template.LoadResources(filepath.Join("images", image, "confd.d"), "")
	if err != nil { // trap 11: a setting that means nothing is an error
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range rs {
		content, err := r.Try(t.Context(), k, false, template.Options{})
		if err != nil {
			t.Fatalf("%s: %v", r.Name, err)
		}
		out[r.Dest] = string(content)
	}
	return out
}

// Trap 8: without instances nginx has a configuration that is right, and says
// so to those who ask.
func TestNginx(t *testing.T) {
	conf := "/etc/nginx/nginx.conf"
	none := render(t, "nginx", nil)[conf]
	if strings.Contains(none, "upstream sinatra") || strings.Contains(none, "proxy_pass") || strings.Count(none, "return 503") != 2 {
		t.Errorf("without instances:\n%s", none)
	}
	some := render(t, "nginx", keys{"/apps/elk/sinatra/1": "10.0.0.1:32768", "/apps/elk/sinatra/2": "10.0.0.2:32768", "/apps/elk/page": "10.0.0.3:5601"})[conf]
	for _, want := range []string{"server 10.0.0.1:32768 ", "server 10.0.0.2:32768 ", "proxy_pass http://10.0.0.3:5601/;", "proxy_pass http://sinatra;"} {
		if !strings.Contains(some, want) {
			t.Errorf("lacks %q:\n%s", want, some)
		}
	}
	toml, err := os.ReadFile("images/nginx/confd.d/conf.d/nginx.toml")
	if err != nil || !strings.Contains(string(toml), `check_cmd = "nginx -t -q -c {{.src}}"`) {
		t.Errorf("the check is not of the new file: %s %v", toml, err)
	}
}

// Trap 5: a part whose neighbour is not there yet has a configuration, and
// goes on when it comes.
func TestNeighbours(t *testing.T) {
	for _, c := range []struct {
		image, file string
		keys        keys
		want        string
	}{
		{"collector", "/etc/elk.json", nil, `{"store": ""}`},
		{"collector", "/etc/elk.json", keys{"/apps/elk/store": "10.0.0.1:9428"}, `{"store": "http://10.0.0.1:9428"}`},
		{"sinatra", "/etc/elk.json", nil, `{"collector": ""}`},
		{"sinatra", "/etc/elk.json", keys{"/apps/elk/collector": "10.0.0.1:5044"}, `{"collector": "10.0.0.1:5044"}`},
	} {
		if got := strings.TrimSpace(render(t, c.image, c.keys)[c.file]); got != c.want {
			t.Errorf("%s: %s, want %s", c.image, got, c.want)
		}
	}
	// What a deployment sets is there before the units are.
	config := keys{}
	for k, v := range load(t).Keys {
		config["/apps/elk"+k] = v
	}
	if got := render(t, "store", config)["/etc/boot.env"]; got != "RETENTION=7d\n" {
		t.Errorf("store: %q", got)
	}
	if got := render(t, "traffic", config); got["/etc/boot.env"] != "VISITORS=5\nPAUSE=1s\n" || strings.TrimSpace(got["/etc/elk.json"]) != `{"target": ""}` {
		t.Errorf("traffic: %q", got)
	}
}
