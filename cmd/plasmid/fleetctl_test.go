package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"plasmid/runtime/api"
)

// fleetctl's commands and flags. Those that docs/fleetctl.md gives no meaning
// any more are not here.
var fleetctl = map[string][]string{
	"":                {"endpoint", "ca-file", "cert-file", "key-file", "known-hosts-file", "strict-host-key-checking", "ssh-timeout", "ssh-username", "tunnel", "help", "version"},
	"submit":          {"replace"},
	"load":            {"no-block", "block-attempts", "replace"},
	"start":           {"no-block", "block-attempts", "replace"},
	"stop":            {"no-block", "block-attempts"},
	"unload":          {"no-block", "block-attempts"},
	"destroy":         {"no-block", "block-attempts"},
	"restart":         {"block-attempts"},
	"cat":             {},
	"list-units":      {"full", "no-legend", "fields"},
	"list-unit-files": {"full", "no-legend", "fields"},
	"list-machines":   {"full", "no-legend", "fields"},
	"status":          {},
	"journal":         {"lines", "follow", "output"},
	"ssh":             {"machine", "unit", "forward-agent", "ssh-port"},
	"fd-forward":      {},
	"version":         {},
	"help":            {},
}

// TestFleetctl finds all of fleetctl's commands, with their flags.
func TestFleetctl(t *testing.T) {
	root := newRootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultVersionFlag()
	root.InitDefaultHelpFlag()
	for name, flags := range fleetctl {
		cmd := root
		if name != "" {
			var err error
			if cmd, _, err = root.Find([]string{name}); err != nil || cmd.Name() != name {
				t.Errorf("%s: %v", name, err)
				continue
			}
		}
		for _, f := range flags {
			if cmd.Flags().Lookup(f) == nil && cmd.PersistentFlags().Lookup(f) == nil {
				t.Errorf("%s has no --%s", name, f)
			}
		}
	}
	for flag, short := range map[string]string{"list-units": "l", "journal": "f", "ssh": "A"} {
		if cmd, _, err := root.Find([]string{flag}); err != nil || cmd.Flags().ShorthandLookup(short) == nil {
			t.Errorf("%s has no -%s", flag, short)
		}
	}
}

func TestFleetctlFields(t *testing.T) {
	for name, fields := range map[string]string{
		"list-units":      "unit,machine,active,sub,load,hash",
		"list-unit-files": "unit,hash,dstate,state,target,tmachine,global,desc",
		"list-machines":   "machine,ip,metadata",
	} {
		cmd, _, err := newRootCommand().Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		usage := cmd.Flags().Lookup("fields").Usage
		_, all, _ := strings.Cut(usage, "out of ")
		have := strings.Split(all, ",")
		for _, f := range strings.Split(fields, ",") {
			if !slices.Contains(have, f) {
				t.Errorf("%s has no column %s", name, f)
			}
		}
	}
}

// TestFleetctlPage holds docs/fleetctl.md against the commands and flags.
func TestFleetctlPage(t *testing.T) {
	data, err := os.ReadFile("../../docs/fleetctl.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)[^`]*` \\|([^|]*)\\|").FindAllStringSubmatch(string(data), -1) {
		documented[m[1]] = true
		for _, f := range regexp.MustCompile("`--([a-z-]+)`").FindAllStringSubmatch(m[2], -1) {
			documented[m[1]+" --"+f[1]] = true
		}
	}
	for name, flags := range fleetctl {
		if name == "" {
			name = "global"
		} else if !documented[name] {
			t.Errorf("%s is not in the table", name)
		}
		for _, f := range flags {
			if !documented[name+" --"+f] && !regexp.MustCompile("`--"+f+"`").Match(data) {
				t.Errorf("%s --%s is not in the page", name, f)
			}
		}
	}
}

func TestPrefixes(t *testing.T) {
	root := newRootCommand()
	for prefix, want := range map[string]string{"dest": "destroy", "list-m": "list-machines", "unl": "unload", "list-unit-": "list-unit-files"} {
		if cmd, _, err := root.Find([]string{prefix}); err != nil || cmd.Name() != want {
			t.Errorf("%s: %v %v", prefix, cmd.Name(), err)
		}
	}
	if cmd, _, err := root.Find([]string{"list-"}); err == nil && cmd != root {
		t.Errorf("list- is %s", cmd.Name())
	}
}

func TestBlockAttempts(t *testing.T) {
	for arg, want := range map[string]string{"--block-attempts=20": "10s false", "--block-attempts=0": "0s false", "--block-attempts=-1": "1m0s true", "": "1m0s false", "--timeout=5s": "5s false"} {
		var w waiting
		cmd := &cobra.Command{Use: "x", RunE: func(*cobra.Command, []string) error { return nil }}
		w.register(cmd)
		cmd.SetArgs(strings.Fields(arg))
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		if got := w.timeout.String() + " " + map[bool]string{true: "true", false: "false"}[w.noBlock]; got != want {
			t.Errorf("%s: %s, want %s", arg, got, want)
		}
	}
}

// TestEnvironment: Plasmid's own names come before fleetctl's.
func TestEnvironment(t *testing.T) {
	t.Setenv("FLEETCTL_ENDPOINT", "unix:///a")
	t.Setenv("FLEETCTL_TUNNEL", "old")
	t.Setenv("PLASMID_TUNNEL", "new:2222")
	t.Setenv("FLEETCTL_SSH_TIMEOUT", "2.5")
	t.Setenv("FLEETCTL_STRICT_HOST_KEY_CHECKING", "false")
	t.Setenv("PLASMID_FILE", "openstack.hcl")
	g := &globals{}
	g.register(&cobra.Command{})
	if g.Endpoint != "unix:///a" || g.Tunnel != "new:2222" || g.SSHTimeout != 2.5 || g.StrictHost || g.File != "openstack.hcl" || g.envErr != nil {
		t.Errorf("%+v", g)
	}
	t.Setenv("FLEETCTL_SSH_TIMEOUT", "soon")
	root := newRootCommand()
	root.SetArgs([]string{"version"})
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "soon") {
		t.Error(err)
	}
}

func TestPickMachine(t *testing.T) {
	ms := []api.Machine{{}, {}, {}}
	for i, id := range []string{"aaaa1111", "aaaa2222", "bbbb1111"} {
		ms[i].ID, ms[i].Name = id, "m"+id[:1]+id[4:5]
	}
	for name, want := range map[string]string{"": "", "ma1": "aaaa1111", "bbbb": "bbbb1111", "bbb": "", "aaaa2": "aaaa2222", "none": ""} {
		m, found, err := pickMachine(ms, name)
		if err != nil || m.ID != want || found != (want != "") {
			t.Errorf("%q: %s %v %v", name, m.ID, found, err)
		}
	}
	if _, _, err := pickMachine(ms, "aaaa"); err == nil || !strings.Contains(err.Error(), "give more of it") {
		t.Error(err)
	}
}

func TestEventLine(t *testing.T) {
	for want, e := range map[string]api.Event{
		"a.service is placed on m1: fewest units": {Unit: "a.service", Name: "m1", Text: "is placed there: fewest units"},
		"a.service on m1 is active (running)":     {Unit: "a.service", Name: "m1", Text: "is active (running)"},
		"m1 leads":                                {Name: "m1", Text: "leads"},
		"no machine leads":                        {Text: "no machine leads"},
	} {
		if got := eventLine(e); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestWriteAccess(t *testing.T) {
	dir := t.TempDir() + "/a"
	if err := writeAccess(dir, []byte("ca"), []byte("crt"), []byte("key")); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir + "/client.key"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	if err := writeAccess(dir, []byte("ca"), []byte("crt"), []byte("other")); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Error(err)
	}
	if data, err := os.ReadFile(dir + "/client.key"); err != nil || string(data) != "key" {
		t.Errorf("%q %v", data, err)
	}
}
