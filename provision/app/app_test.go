package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"plasmid/runtime/api"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// dirWith writes an app's directory.
func dirWith(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const whole = `
variable "instances" { default = 2 }
app "shop" {
  keys = { "/config/motto" = "hi" }
  certificate "inner" {}
  secret "password" { description = "of the till" }
  image "web" {
    context = "web"
    files   = ["boot"]
  }
  unit "front.service" {
    file  = "front.service"
    after = ["web@.service"]
  }
  unit "web@.service" {
    file    = "web@.service"
    count   = var.instances
    timeout = "90s"
  }
  front {
    unit = "front.service"
    port = 80
  }
}
`

func wholeDir(t *testing.T, hcl string) string {
	return dirWith(t, map[string]string{
		"app.hcl": hcl, "boot": "#!/bin/sh\n", "web/Dockerfile": "FROM localhost/plasmid/debian:testing\n",
		"front.service": "[Service]\nExecStart=/bin/sleep 1\n", "web@.service": "[Service]\nExecStart=docker run ${IMAGE_WEB}\n",
	})
}

func TestLoad(t *testing.T) {
	a, err := Load(wholeDir(t, whole), map[string]any{"instances": 3})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, u := range a.Units {
		names = append(names, u.Names...)
	}
	// What waits comes after what it waits for.
	if want := []string{"web@1.service", "web@2.service", "web@3.service", "front.service"}; !cmp.Equal(names, want) {
		t.Errorf("units %v, want %v", names, want)
	}
	if a.Units[0].Timeout.Seconds() != 90 || a.Units[1].Timeout != DefaultTimeout {
		t.Errorf("timeouts %v, %v", a.Units[0].Timeout, a.Units[1].Timeout)
	}
	if a.Keys["/config/motto"] != "hi" || len(a.Certificates) != 1 {
		t.Errorf("keys %v, certificates %v", a.Keys, a.Certificates)
	}
}

// Every mistake is told with its line, and nothing is loaded.
func TestLoadMistakes(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"key without slash", `"/config/motto"`, `"config"`, "a key is a path"},
		{"key that climbs", `"/config/motto"`, `"/../other/x"`, "a key is a path"},
		{"certificate's name", `"inner"`, `"../x"`, "lower-case"},
		{"two certificates", `certificate "inner" {}`, "certificate \"inner\" {}\ncertificate \"inner\" {}", "another certificate"},
		{"secret's name", `secret "password"`, `secret "../x"`, "secret's name"},
		{"two secrets", `certificate "inner" {}`, "certificate \"inner\" {}\nsecret \"password\" {}", "another secret"},
		{"a secret that is made", `secret "password"`, `secret "inner.key"`, "leave the secret out"},
		{"no such file", `["boot"]`, `["bot"]`, "which is no file"},
		{"timeout", `"90s"`, `"90"`, "a duration such as"},
		{"negative timeout", `"90s"`, `"-1s"`, "a duration such as"},
		{"image's name", `image "web"`, `image "Web"`, "lower-case"},
		{"unknown attribute", `count   =`, `counts  =`, "counts"},
		{"order", `["web@.service"]`, `["wob@.service"]`, "not a unit of the app"},
		{"metadata", `after = ["web@.service"]`, `metadata = { role = "a b" }`, "words without spaces"},
		{"front", `unit = "front.service"`, `unit = "fornt.service"`, "no unit of the app"},
		{"no count", "count   = var.instances", "", "how many instances"},
		{"no Dockerfile", `context = "web"`, `context = "wob"`, "Dockerfile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(whole, c.old, c.new, 1)
			if text == whole {
				t.Fatalf("%q is not there", c.old)
			}
			_, err := Load(wholeDir(t, text), nil)
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("error %v", err)
			}
			if d := bad.Diagnostics[0]; !strings.Contains(err.Error(), c.want) || d.Subject == nil || d.Subject.Start.Line < 2 && c.name != "front" {
				t.Errorf("%v, want %q with a line", err, c.want)
			}
		})
	}
	if _, err := Load(wholeDir(t, whole), map[string]any{"instanzes": 3}); err == nil || !strings.Contains(err.Error(), "does not declare") {
		t.Errorf("an unknown variable: %v", err)
	}
}

// have is what the cluster would have after a deployment.
func have(a *App, refs map[string]string) map[string]api.Unit {
	out := map[string]api.Unit{}
	for _, u := range a.Units {
		for _, n := range u.Names {
			out[n] = api.Unit{Name: n, Text: a.text(u, refs), Wish: store.Launched, App: a.Name}
		}
	}
	return out
}

func TestCompare(t *testing.T) {
	a, err := Load(wholeDir(t, whole), nil)
	if err != nil {
		t.Fatal(err)
	}
	refs := map[string]string{"web": "r/web@sha256:new"}
	before := map[string]string{"web": "r/web@sha256:old"}
	secrets := map[string]bool{"inner.crt": true, "inner.key": true}
	with := func(h map[string]api.Unit, n string, u api.Unit) map[string]api.Unit {
		h[n] = u
		return h
	}
	stopped := have(a, refs)["front.service"]
	stopped.Wish = store.Inactive
	for _, c := range []struct {
		name    string
		have    map[string]api.Unit
		keys    map[string]string
		secrets map[string]bool
		want    []Change
	}{
		{"the same", have(a, refs), a.Keys, secrets, nil},
		{"nothing there", nil, nil, nil, []Change{
			{"+", "certificate", "inner", nil}, {"+", "key", "/config/motto", []string{"+hi"}},
			{"+", "unit", "web@1.service", nil}, {"+", "unit", "web@2.service", nil}, {"+", "unit", "front.service", nil},
		}},
		{"another image", have(a, before), a.Keys, secrets, []Change{
			{"~", "unit", "web@1.service", []string{"-Environment=IMAGE_WEB=r/web@sha256:old", "+Environment=IMAGE_WEB=r/web@sha256:new", "-Images=r/web@sha256:old", "+Images=r/web@sha256:new"}},
			{"~", "unit", "web@2.service", []string{"-Environment=IMAGE_WEB=r/web@sha256:old", "+Environment=IMAGE_WEB=r/web@sha256:new", "-Images=r/web@sha256:old", "+Images=r/web@sha256:new"}},
		}},
		{"one too many", with(have(a, refs), "web@3.service", api.Unit{Name: "web@3.service"}), a.Keys, secrets, []Change{{"-", "unit", "web@3.service", nil}}},
		{"stopped by hand", with(have(a, refs), "front.service", stopped), a.Keys, secrets, []Change{{"~", "unit", "front.service", []string{"-inactive", "+launched"}}}},
		{"keys", have(a, refs), map[string]string{"/config/motto": "ho", "/old": "x"}, secrets, []Change{
			{"~", "key", "/config/motto", []string{"-ho", "+hi"}}, {"-", "key", "/old", []string{"-x"}},
		}},
		{"half a certificate", have(a, refs), a.Keys, map[string]bool{"inner.crt": true}, []Change{{"+", "certificate", "inner", nil}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Plan{app: a, refs: refs, have: c.have}
			p.compare(c.keys, c.secrets)
			if d := cmp.Diff(c.want, p.Changes); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDiffering(t *testing.T) {
	for _, c := range []struct {
		old, text string
		want      []string
	}{
		{"a\nb\nc", "a\nb\nc", nil},
		{"a\nb\nc", "a\nx\nc", []string{"-b", "+x"}},
		{"a\nb", "a\nb\nc", []string{"+c"}},
		{"a\nb\nc", "c", []string{"-a", "-b"}},
		{"", "a", []string{"-", "+a"}},
	} {
		if got := differing(c.old, c.text); !cmp.Equal(got, c.want) {
			t.Errorf("%q and %q: %q, want %q", c.old, c.text, got, c.want)
		}
	}
}

func TestBaseSuites(t *testing.T) {
	dir := dirWith(t, map[string]string{"Dockerfile": "# FROM localhost/plasmid/debian:sid\nFROM localhost/plasmid/debian:trixie AS build\nRUN x\nfrom localhost/plasmid/debian:testing\nFROM localhost/plasmid/debian:trixie\nFROM scratch\nFROM localhost/plasmid/debian2:sid\n"})
	got, err := baseSuites(filepath.Join(dir, "Dockerfile"))
	if want := []string{"trixie", "testing"}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
}

// What is added to a context counts for whether an image is built again.
func TestKey(t *testing.T) {
	dir := wholeDir(t, whole)
	a, err := Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{State: t.TempDir()}
	first, err := b.key(a.Images[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "boot"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if second, err := b.key(a.Images[0]); err != nil || first == second {
		t.Errorf("keys %s and %s, %v", first, second, err)
	}
}

func TestScaledFromRunning(t *testing.T) {
	a, err := Load(wholeDir(t, whole), nil)
	if err != nil {
		t.Fatal(err)
	}
	none := func() ([]Built, error) { return nil, errors.New("nothing was to be built") }
	text, err := Cluster{}.scaledText(t.Context(), a, a.Units[0], map[int]api.Unit{7: {Text: "seven"}, 2: {Text: "two"}}, none)
	if err != nil || text != "two" {
		t.Errorf("%q %v", text, err)
	}
}

// What an app can't do without is asked for before anything is done, with the
// place that asks and the command that helps.
func TestSecrets(t *testing.T) {
	dir := wholeDir(t, whole)
	a, err := Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(dir, "app.hcl") + ":6: secret password (of the till) is not set; set it with: plasmid secret set shop password"
	if err := unset(a, map[string]bool{"other": true}); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := unset(a, map[string]bool{"password": true}); err != nil {
		t.Error(err)
	}
}

// A unit goes to the machines that the cluster file chooses for it.
func TestMetadata(t *testing.T) {
	text := strings.Replace(whole, "app \"shop\" {", "variable \"front\" { default = {} }\napp \"shop\" {", 1)
	dir := wholeDir(t, strings.Replace(text, `after = ["web@.service"]`, "after = [\"web@.service\"]\nmetadata = var.front", 1))
	for _, c := range []struct {
		vars map[string]any
		want map[string][]string
	}{
		{nil, nil},
		{map[string]any{"front": map[string]any{"role": "front", "zone": "a"}}, map[string][]string{"role": {"front"}, "zone": {"a"}}},
	} {
		a, err := Load(dir, c.vars)
		if err != nil {
			t.Fatal(err)
		}
		s, err := unit.SpecOf("front.service", a.text(a.Units[1], nil))
		if err != nil || !cmp.Equal(map[string][]string(s.Metadata), c.want, cmpopts.EquateEmpty()) {
			t.Errorf("%v: metadata %v %v, want %v", c.vars, s.Metadata, err, c.want)
		}
	}
}
