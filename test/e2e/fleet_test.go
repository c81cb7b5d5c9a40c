//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"plasmid/runtime/api"
)

const fourMachines = `nodes "core" {
  count = 4
  etcd = 3
}`

// TestFleet takes one cluster through what fleet's own functional suite held
// fleet to; docs/fleet-behaviours.md says which part holds to what. Where that
// suite could pass without the behaviour, this one is tighter.
func TestFleet(t *testing.T) {
	c := newCluster(t, "fleet", fourMachines)
	c.mustRun("up", "--yes")
	f := &fleet{cluster: c, asked: c.machine(1)}
	for i := range 4 {
		f.all = append(f.all, c.machine(i+1))
	}
	f.until(60*time.Second, "all machines report", func() error { return f.alive(4) })
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"client", f.client}, {"units", f.unitCommands}, {"replace", f.replace}, {"restart", f.restart}, {"looking", f.looking},
		{"install", f.install}, {"systemd", f.systemd}, {"quadlet", f.quadlet},
		{"api", f.api}, {"access", f.access}, {"tunnel", f.tunnel}, {"known hosts", f.knownHosts},
		{"metadata", f.metadata}, {"conflicts", f.conflicts}, {"replaces", f.replaces}, {"machine id", f.machineID}, {"global", f.global},
		{"store away", f.storeAway}, {"daemon", f.daemon}, {"machine of", f.machineOf}, {"machines go", f.machinesGo}, {"cloned machine", f.cloned},
	} {
		t.Run(part.name, func(t *testing.T) {
			begun := time.Now()
			outer := c.t
			c.t = t
			defer func() {
				f.clean()
				c.t = outer
				t.Logf("took %v", time.Since(begun).Round(100*time.Millisecond))
			}()
			part.run(t)
		})
	}
}

// fleet is a cluster whose units are all destroyed after each part.
type fleet struct {
	*cluster
	all   []string
	asked string // the machine whose API http asks
}

func (f *fleet) clean() {
	f.t.Helper()
	var names []string
	for _, u := range f.units() {
		names = append(names, u.Name)
	}
	if len(names) > 0 {
		f.mustRun(append([]string{"destroy"}, names...)...)
	}
}

func (f *fleet) alive(n int) error {
	up := 0
	for _, m := range f.machines() {
		if m.Alive {
			up++
		}
	}
	if up != n {
		return fmt.Errorf("%d machines report", up)
	}
	return nil
}

func (f *fleet) id(machine string) string {
	f.t.Helper()
	for _, m := range f.machines() {
		if m.Name == machine {
			return m.ID
		}
	}
	f.t.Fatal("there is no machine " + machine)
	return ""
}

func (f *fleet) address(machine string) string {
	f.t.Helper()
	for _, m := range f.machines() {
		if m.Name == machine {
			return m.PrivateIPv4
		}
	}
	f.t.Fatal("there is no machine " + machine)
	return ""
}

// rows are the units that a list command names, in its order.
func (f *fleet) rows(args ...string) []string {
	f.t.Helper()
	var names []string
	for line := range strings.Lines(f.mustRun(append(args, "--no-legend", "--fields=unit")...)) {
		names = append(names, strings.TrimSpace(line))
	}
	return names
}

// on are the machines that have a unit, with its active state.
func (f *fleet) on(name string) map[string]string {
	f.t.Helper()
	at := map[string]string{}
	for _, u := range f.units() {
		if u.Name != name {
			continue
		}
		for _, r := range u.On {
			at[r.Name] = ""
			if r.State != nil {
				at[r.Name] = r.State.Active
			}
		}
	}
	return at
}

// active counts active units of a beginning, machine by machine.
func (f *fleet) active(prefix string) (total int, machines map[string]int) {
	f.t.Helper()
	machines = map[string]int{}
	for _, u := range f.units() {
		for _, r := range u.On {
			if strings.HasPrefix(u.Name, prefix) && r.State != nil && r.State.Active == "active" && !r.Silent {
				machines[r.Name]++
				total++
			}
		}
	}
	return total, machines
}

// fixtures writes n files of a template and returns their paths.
func (f *fleet) fixtures(prefix string, n int, text string) []string {
	f.t.Helper()
	f.unit(prefix+"@.service", text)
	var paths []string
	for i := range n {
		paths = append(paths, filepath.Join(f.dir, fmt.Sprintf("%s@%d.service", prefix, i+1)))
	}
	return paths
}

func with(command string, args ...string) []string { return append([]string{command}, args...) }

func (f *fleet) client(t *testing.T) {
	version := f.mustRun("version")
	if v := f.mustRun("--version"); v != version || !strings.HasPrefix(v, "plasmid version ") {
		t.Errorf("%q and %q", v, version)
	}
	help := f.mustRun("help")
	for _, arg := range []string{"--help", "-h"} {
		if h := f.mustRun(arg); h != help || !strings.Contains(h, "list-unit-files") {
			t.Errorf("%s: %q", arg, h)
		}
	}
	machines := f.mustRun("list-machines")
	f.env = append(f.env, "FLEETCTL_ENDPOINT=https://"+f.address(f.machine(2))+":7480")
	if m := f.mustRun("list-machines"); m != machines {
		t.Errorf("by the environment's endpoint:\n%s\n%s", m, machines)
	}
	f.env[len(f.env)-1] = "FLEETCTL_ENDPOINT=https://127.0.0.1:1"
	if _, err := f.run("list-machines"); err == nil {
		t.Error("the environment's endpoint is not used")
	}
	f.env = f.env[:len(f.env)-1]
}

// unitCommands: submit, load and start many at once, undo, and do it again.
func (f *fleet) unitCommands(t *testing.T) {
	for _, tt := range []struct {
		do, undo string
		n        int
		list     string
		active   int
	}{{"submit", "destroy", 9, "list-unit-files", 0}, {"load", "unload", 6, "list-units", 0}, {"start", "stop", 3, "list-units", 3}} {
		files := f.fixtures(tt.do, tt.n, sleeper)
		var names []string
		for _, p := range files {
			names = append(names, filepath.Base(p))
		}
		for round := range 2 {
			f.mustRun(with(tt.do, files...)...)
			if got := f.rows(tt.list); !slices.Equal(got, names) {
				t.Errorf("%s, round %d: %s shows %v", tt.do, round, tt.list, got)
			}
			if n, _ := f.active(tt.do); n != tt.active {
				t.Errorf("%s: %d are active", tt.do, n)
			}
			f.mustRun(with(tt.undo, names...)...)
			if n, _ := f.active(tt.do); n != 0 {
				t.Errorf("%s: %d are active", tt.undo, n)
			}
			if got := f.rows(tt.list); tt.undo != "stop" && len(got) != 0 {
				t.Errorf("%s, round %d: %s shows %v", tt.undo, round, tt.list, got)
			}
		}
		f.clean()
	}
	// Listed in order, however they were given.
	var files, want []string
	f.unit("order@.service", sleeper)
	for i := 20; i > 0; i-- {
		files = append(files, filepath.Join(f.dir, fmt.Sprintf("order@%02d.service", i)))
		want = append([]string{fmt.Sprintf("order@%02d.service", i)}, want...)
	}
	f.mustRun(with("submit", files...)...)
	if got := f.rows("list-unit-files"); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// replace: only with --replace does another text of a unit reach the cluster,
// and then what runs is the new one.
func (f *fleet) replace(t *testing.T) {
	for _, do := range []string{"submit", "load", "start"} {
		name := do + "-r.service"
		path := f.unit(name, "[Service]\nExecStart=/bin/sleep 1001\n")
		f.mustRun(do, path)
		f.unit(name, "[Service]\nExecStart=/bin/sleep 1002\n")
		f.mustRun(do, path)
		if got := f.mustRun("cat", name); !strings.Contains(got, "1001") {
			t.Errorf("%s without --replace: %s", do, got)
		}
		f.mustRun(do, "--replace", path)
		if got := f.mustRun("cat", name); got != "[Service]\nExecStart=/bin/sleep 1002\n" {
			t.Errorf("%s --replace: %q", do, got)
		}
		if got := f.rows("list-unit-files"); !slices.Equal(got, []string{name}) {
			t.Errorf("%v", got)
		}
		if do == "start" {
			for m := range f.on(name) {
				if out := f.in(m, "systemctl show -p ExecStart --value "+name); !strings.Contains(out, "sleep 1002") {
					t.Errorf("on %s runs %s", m, out)
				}
			}
			if n, _ := f.active(name); n != 1 {
				t.Errorf("%d are active", n)
			}
		}
		f.clean()
	}
}

// restart really stops and starts: systemd's invocations change.
func (f *fleet) restart(t *testing.T) {
	names := f.sleepers("re", 3)
	before := f.invocations("re@")
	f.mustRun(with("restart", names...)...)
	after := f.invocations("re@")
	for _, n := range names {
		if after[n] == "" || after[n] == before[n] {
			t.Errorf("%s was %s and is %s", n, before[n], after[n])
		}
		if m, _, _ := strings.Cut(after[n], " "); !strings.HasPrefix(before[n], m+" ") {
			t.Errorf("%s moved", n)
		}
	}
	f.mustRun(with("stop", names...)...)
	if n, _ := f.active("re@"); n != 0 {
		t.Errorf("%d are active", n)
	}
	f.mustRun(with("restart", names...)...)
	if n, _ := f.active("re@"); n != 3 {
		t.Errorf("%d are active", n)
	}
}

func (f *fleet) looking(t *testing.T) {
	const text = "[Unit]\nDescription=It  says: hello\n\n# a comment\n[Service]\nExecStart=/bin/sh -c 'echo well met; exec sleep infinity'\n"
	path := f.unit("hello.service", text)
	f.mustRun("load", path)
	out, err := f.run("status", "hello.service")
	if !strings.Contains(out, "Loaded: loaded") || exitCode(err) != 3 {
		t.Errorf("status of a loaded unit: %v\n%s", err, out)
	}
	f.mustRun("start", "hello.service")
	if out := f.mustRun("status", "hello.service"); !strings.Contains(out, "Active: active") {
		t.Error(out)
	}
	if out := f.mustRun("journal", "hello.service"); !strings.Contains(out, "well met") {
		t.Error(out)
	}
	if out := f.mustRun("journal", "--output=cat", "--lines=1", "hello"); out != "well met\n" {
		t.Errorf("%q", out)
	}
	if out := f.mustRun("cat", "hello.service"); out != text {
		t.Errorf("%q", out)
	}
	if out := f.mustRun("ssh", "hello.service", "echo", "from", "there"); out != "from there\n" {
		t.Errorf("%q", out)
	}
	if _, err := f.run("ssh", "--unit", "hello.service", "exit 7"); exitCode(err) != 7 {
		t.Error(err)
	}
	if out := f.mustRun("list-unit-files", "--no-legend", "--fields=desc"); out != "It  says: hello\n" {
		t.Errorf("%q", out)
	}
	if _, err := f.run("cat", "nothing.service"); exitCode(err) != 1 || !strings.Contains(err.Error(), "not known to the cluster") {
		t.Error(err)
	}
}

// install: a unit that is only loaded is started with the one that wants it.
func (f *fleet) install(t *testing.T) {
	main := f.unit("main.service", sleeper)
	side := f.unit("side.service", "[Unit]\nBindsTo=main.service\nAfter=main.service\n"+sleeper+"[Install]\nWantedBy=main.service\n[X-Fleet]\nMachineOf=main.service\n")
	f.mustRun("load", main, side)
	is := func(want string) {
		t.Helper()
		f.until(10*time.Second, "side is "+want, func() error {
			if on := f.on("side.service"); len(on) != 1 || slices.Collect(maps.Values(on))[0] != want {
				return fmt.Errorf("%v", on)
			}
			return nil
		})
	}
	is("inactive")
	f.mustRun("start", "main.service")
	is("active")
	f.mustRun("stop", "main.service")
	is("inactive")
}

// systemd: what the agent does to one unit, as systemd sees it.
func (f *fleet) systemd(t *testing.T) {
	path := f.unit("flow.service", sleeper)
	show := func(m string) string {
		return strings.Join(strings.Fields(f.in(m, "systemctl show -p LoadState,ActiveState,SubState --value flow.service")), "/")
	}
	f.mustRun("load", path)
	machine := ""
	for m := range f.on("flow.service") {
		machine = m
	}
	if got := show(machine); got != "loaded/inactive/dead" {
		t.Error(got)
	}
	f.mustRun("start", "flow.service")
	if got := show(machine); got != "loaded/active/running" {
		t.Error(got)
	}
	f.mustRun("stop", "flow.service")
	if got := show(machine); got != "loaded/inactive/dead" {
		t.Error(got)
	}
	f.mustRun("unload", "flow.service")
	if got := show(machine); got != "not-found/inactive/dead" {
		t.Error(got)
	}
	if left := f.in(machine, "find /run/plasmid/units /run/systemd/system /etc/systemd/system -name 'flow.service*'"); left != "" {
		t.Errorf("left: %s", left)
	}
}

// quadlet: a .container file is kept as it is and systemd gets a service. The
// image is not there: that docker was asked for it is what is looked for.
func (f *fleet) quadlet(t *testing.T) {
	const text = "[Container]\nImage=none.invalid/image:1\nPull=never\nEnvironment=A=\"b c\"\n"
	path := f.unit("box.container", text)
	// Whether start sees the moment in which it runs is a matter of luck.
	if _, err := f.run("start", path); err != nil && !strings.Contains(err.Error(), "box.service failed on") {
		t.Errorf("a container without its image: %v", err)
	}
	f.until(10*time.Second, "it has failed", func() error {
		units := f.units()
		i := slices.IndexFunc(units, func(u api.Unit) bool { return u.Name == "box.service" })
		if i < 0 || len(units[i].On) != 1 || units[i].On[0].State == nil || units[i].On[0].State.Active != "failed" {
			return fmt.Errorf("%+v", units)
		}
		return nil
	})
	if got := f.mustRun("cat", "box.service"); got != text {
		t.Errorf("%q", got)
	}
	generated := f.mustRun("cat", "--generated", "box.container")
	for m := range f.on("box.service") {
		if got := f.in(m, "cat /run/plasmid/units/box.service"); got != generated {
			t.Errorf("on %s systemd has\n%s\nnot\n%s", m, got, generated)
		}
	}
	if out := f.mustRun("journal", "--output=cat", "box.service"); !strings.Contains(out, "none.invalid/image:1") {
		t.Error(out)
	}
	bad := f.unit("bad.container", "[Container]\nImage=a\nPod=x.pod\n")
	if _, err := f.run("submit", bad); exitCode(err) != 1 || !strings.Contains(err.Error(), "line 3: Pod=x.pod needs Podman") {
		t.Error(err)
	}
}

// http sends a request by mutual TLS, with the certificate in a directory.
func (f *fleet) http(dir, cert, method, path, body string) (int, string) {
	f.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, cert+".crt"), filepath.Join(dir, cert+".key"))
	if err != nil {
		f.t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		f.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(f.t.Context(), method, "https://"+f.address(f.asked)+":7480"+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func (f *fleet) accessDir() string {
	state := os.Getenv("PLASMID_STATE")
	if state == "" {
		state = "/var/lib/plasmid"
	}
	return filepath.Join(state, "clusters", f.name, "access")
}

func (f *fleet) admin(method, path, body string) (int, string) {
	f.t.Helper()
	return f.http(f.accessDir(), "admin", method, path, body)
}

func (f *fleet) api(t *testing.T) {
	type list struct {
		Machines []struct {
			ID       string
			Metadata map[string]string
		}
	}
	machines := func() map[string]map[string]string {
		t.Helper()
		code, body := f.admin("GET", "/fleet/v1/machines", "")
		var l list
		if err := json.Unmarshal([]byte(body), &l); err != nil || code != 200 {
			t.Fatal(code, err, body)
		}
		out := map[string]map[string]string{}
		for _, m := range l.Machines {
			out[m.ID] = m.Metadata
		}
		return out
	}
	id := f.id(f.machine(1))
	ms := machines()
	for _, m := range f.all {
		if _, is := ms[f.id(m)]; !is || len(ms) != 4 {
			t.Errorf("%s is not among %v", m, ms)
		}
	}
	if code, body := f.admin("GET", "/fleet/v1/machines?nextPageToken=EwBMLg==", ""); code != 400 {
		t.Error(code, body)
	}
	patch := func(op, value string, want int) {
		t.Helper()
		if code, body := f.admin("PATCH", "/fleet/v1/machines", fmt.Sprintf(`[{"op":%q,"path":"/%s/metadata/foo","value":%q}]`, op, id, value)); code != want {
			t.Errorf("%s %s: %d %s", op, value, code, body)
		}
	}
	patch("add", "bar", 204)
	if got := machines()[id]["foo"]; got != "bar" {
		t.Errorf("added: %q", got)
	}
	patch("replace", "baz", 204)
	if got := machines()[id]["foo"]; got != "baz" {
		t.Errorf("replaced: %q", got)
	}
	patch("copy", "x", 400)
	patch("add", "", 400)
	if code, body := f.admin("PATCH", "/fleet/v1/machines", fmt.Sprintf(`[{"op":"add","path":"/%s/foo","value":"x"}]`, id)); code != 400 {
		t.Error(code, body)
	}
	if got := machines()[id]["foo"]; got != "baz" {
		t.Errorf("a bad patch left %q", got)
	}
	patch("remove", "", 204)
	if got, is := machines()[id]["foo"]; is {
		t.Errorf("removed: %q", got)
	}
	// The same by the socket, as root on a machine.
	out := f.in(f.machine(2), "printf 'GET /fleet/v1/machines HTTP/1.0\\r\\n\\r\\n' | plasmid fd-forward /run/plasmid/plasmid.sock")
	if !strings.Contains(out, "200 OK") || !strings.Contains(out, id) {
		t.Error(out)
	}
	if out := f.in(f.machine(2), "stat -c '%a %U' /run/plasmid/plasmid.sock"); out != "600 root\n" {
		t.Errorf("the socket is %s", out)
	}
	if code, body := f.admin("GET", "/metrics", ""); code != 200 || !strings.Contains(body, "plasmid_store_current 1") {
		t.Error(code, body)
	}
}

// access: what each role may do, and who did it.
func (f *fleet) access(t *testing.T) {
	dirs := map[string]string{}
	for _, role := range []string{"reader", "operator"} {
		dirs[role] = filepath.Join(t.TempDir(), role)
		f.mustRun("access", "issue", role+"-1", "--role", role, "--out", dirs[role])
	}
	const put = `{"desiredState":"inactive","options":[{"section":"Service","name":"ExecStart","value":"/bin/true"}]}`
	for _, tt := range []struct {
		role, method, path, body string
		want                     int
	}{
		{"reader", "GET", "/fleet/v1/units", "", 200},
		{"reader", "PUT", "/fleet/v1/units/by.service", put, 403},
		{"operator", "PUT", "/fleet/v1/units/by.service", put, 201},
		{"operator", "PATCH", "/fleet/v1/machines", "[]", 403},
		{"operator", "GET", "/plasmid/v1/audit", "", 403},
	} {
		if code, body := f.http(dirs[tt.role], "client", tt.method, tt.path, tt.body); code != tt.want {
			t.Errorf("%s %s %s: %d %s", tt.role, tt.method, tt.path, code, body)
		}
	}
	args := []string{"--endpoint", "https://" + f.address(f.machine(2)) + ":7480", "--ca-file", dirs["operator"] + "/ca.crt", "--cert-file", dirs["operator"] + "/client.crt", "--key-file", dirs["operator"] + "/client.key"}
	f.mustRun(append(args, "destroy", "by.service")...)
	var log api.AuditAnswer
	f.until(10*time.Second, "the journals have it", func() error {
		if err := json.Unmarshal([]byte(f.mustRun("audit", "--lines", "1000", "-o", "json")), &log); err != nil {
			return err
		}
		var mine []string
		for _, e := range log.Entries {
			if strings.HasPrefix(e.Who, "user-") {
				mine = append(mine, e.String())
			}
		}
		want := []string{
			"user-reader-1 (reader) was refused (403) PUT /fleet/v1/units/by.service",
			"user-operator-1 (operator) gave by.service the text 86943ac and made it inactive",
			"user-operator-1 (operator) was refused (403) PATCH /fleet/v1/machines",
			"user-operator-1 (operator) destroyed by.service",
		}
		mine = mine[max(0, len(mine)-4):]
		if !slices.Equal(mine, want) {
			return fmt.Errorf("%s", strings.Join(mine, "\n"))
		}
		return nil
	})
}

func (f *fleet) tunnel(t *testing.T) {
	known := filepath.Join(t.TempDir(), "known_hosts")
	args := func(a ...string) []string {
		return append([]string{"--tunnel", f.address(f.machine(1)), "--known-hosts-file", known, "--ssh-key", filepath.Join(f.accessDir(), "ssh_ed25519")}, a...)
	}
	if _, err := f.run(args("list-machines")...); err == nil || !strings.Contains(err.Error(), "is not in "+known) {
		t.Errorf("an unknown host: %v", err)
	}
	f.answer(t, "yes\n", args("list-machines")...)
	files := f.fixtures("batch", 11, sleeper)
	var said bytes.Buffer
	for _, part := range [][]string{files[:1], files[1:]} {
		cmd := f.command(t.Context(), args(with("start", part...)...)...)
		cmd.Stderr = &said
		if err := cmd.Run(); err != nil {
			t.Fatal(err, said.String())
		}
	}
	if n, _ := f.active("batch@"); n != 11 {
		t.Errorf("%d are active", n)
	}
	if strings.Contains(strings.ToLower(said.String()), "error") {
		t.Error(said.String())
	}
}

// answer runs a command with something to read.
func (f *fleet) answer(t *testing.T, in string, args ...string) {
	t.Helper()
	cmd := f.command(t.Context(), args...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// knownHosts: a host is asked about once; one with another key is refused, and
// taken when the old key was forgotten.
func (f *fleet) knownHosts(t *testing.T) {
	machine := f.machine(4)
	known := filepath.Join(t.TempDir(), "known_hosts")
	ssh := []string{"--known-hosts-file", known, "ssh", machine, "true"}
	f.answer(t, "yes\n", ssh...)
	f.mustRun(ssh...)
	f.in(machine, "mkdir /root/keys && mv /etc/ssh/ssh_host_* /root/keys/ && ssh-keygen -A && systemctl restart ssh")
	defer f.in(machine, "rm /etc/ssh/ssh_host_* && mv /root/keys/* /etc/ssh/ && rmdir /root/keys && systemctl restart ssh")
	if _, err := f.run(ssh...); err == nil || !strings.Contains(err.Error(), "has another one") {
		t.Errorf("a host that changed: %v", err)
	}
	if err := os.WriteFile(known, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.answer(t, "yes\n", ssh...)
}

// set gives a machine metadata.
func (f *fleet) set(machine, key, value string) {
	f.t.Helper()
	if code, body := f.admin("PATCH", "/fleet/v1/machines", fmt.Sprintf(`[{"op":"add","path":"/%s/metadata/%s","value":%q}]`, f.id(machine), key, value)); code != 204 {
		f.t.Fatal(code, body)
	}
}

func (f *fleet) metadata(t *testing.T) {
	f.unit("meta@.service", sleeper+"[X-Fleet]\nMachineMetadata=hostname=%i\n")
	var files []string
	for i, m := range f.all[:3] {
		f.set(m, "hostname", "h"+strconv.Itoa(i))
		files = append([]string{filepath.Join(f.dir, fmt.Sprintf("meta@h%d.service", i))}, files...)
	}
	f.mustRun(with("start", files...)...)
	for i, m := range f.all[:3] {
		if on := f.on(fmt.Sprintf("meta@h%d.service", i)); on[m] != "active" || len(on) != 1 {
			t.Errorf("h%d is on %v", i, on)
		}
	}
	begun := time.Now()
	_, err := f.run("start", "--block-attempts=4", filepath.Join(f.dir, "meta@invalid.service"))
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "hostname=invalid") || time.Since(begun) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
}

func (f *fleet) conflicts(t *testing.T) {
	// Five that conflict, on four machines.
	files := f.fixtures("conflict", 5, sleeper+"[X-Fleet]\nConflicts=conflict@*.service\n")
	f.mustRun(with("start", files[:4]...)...)
	_, err := f.run("start", "--timeout", "2s", files[4])
	if exitCode(err) != 1 || strings.Count(err.Error(), "Conflicts=") != 4 {
		t.Errorf("the fifth: %v", err)
	}
	if n, machines := f.active("conflict@"); n != 4 || len(machines) != 4 || len(f.rows("list-unit-files")) != 5 {
		t.Errorf("%d on %v", n, machines)
	}
	f.mustRun("destroy", "conflict@2.service")
	f.until(10*time.Second, "the fifth takes the place", func() error { return f.allActive([]string{"conflict@5.service"}) })
	f.clean()

	// One that conflicts with another which says nothing of it.
	pin := "MachineMetadata=hostname=h0\n"
	f.set(f.machine(1), "hostname", "h0")
	hello := f.unit("hello.service", sleeper+"[X-Fleet]\n"+pin)
	against := f.unit("against.service", sleeper+"[X-Fleet]\n"+pin+"Conflicts=hello.service\n")
	f.mustRun("start", against)
	if _, err := f.run("start", "--timeout", "2s", hello); exitCode(err) != 1 {
		t.Errorf("hello: %v", err)
	}
	if on := f.on("hello.service"); len(on) != 0 {
		t.Errorf("hello is on %v", on)
	}
	f.mustRun("destroy", "against.service")
	f.until(10*time.Second, "hello runs", func() error { return f.allActive([]string{"hello.service"}) })
	f.clean()

	// Several in one line.
	var names []string
	for i := range 3 {
		others := []string{"several0.service", "several1.service", "several2.service"}
		name := others[i]
		names = append(names, f.unit(name, sleeper+"[X-Fleet]\nConflicts="+strings.Join(slices.Delete(others, i, i+1), " ")+"\n"))
	}
	f.mustRun(with("start", names...)...)
	if n, machines := f.active("several"); n != 3 || len(machines) != 3 {
		t.Errorf("%d on %v", n, machines)
	}
}

func (f *fleet) replaces(t *testing.T) {
	// The units may be on two machines only.
	for i, v := range []string{"a", "a", "b", "b"} {
		f.set(f.all[i], "half", v)
	}
	half := "[X-Fleet]\nMachineMetadata=half=a\n"
	victim := f.unit("victim.service", sleeper+half)
	f.mustRun("start", victim)
	was := f.on("victim.service")
	kick := f.unit("kick.service", sleeper+half+"Replaces=victim.service\n")
	f.mustRun("start", kick)
	f.until(10*time.Second, "both run", func() error { return f.allActive([]string{"kick.service", "victim.service"}) })
	if on := f.on("kick.service"); !maps.Equal(on, was) {
		t.Errorf("kick is on %v, victim was on %v", on, was)
	}
	if on := f.on("victim.service"); maps.Equal(on, was) {
		t.Errorf("victim is still on %v", on)
	}
	f.clean()
	// Two that replace each other come to rest.
	one := f.unit("one.service", sleeper+half+"Replaces=two.service\n")
	two := f.unit("two.service", sleeper+half+"Replaces=one.service\n")
	f.mustRun("start", one)
	was = f.invocations("one")
	if _, err := f.run("start", "--timeout", "3s", two); err != nil && exitCode(err) != 1 {
		t.Errorf("the second: %v", err)
	}
	if is := f.invocations("one"); is["one.service"] == "" || !maps.Equal(is, was) {
		t.Errorf("the first was driven away: %v, was %v", is, was)
	}
	if one, two := f.on("one.service"), f.on("two.service"); maps.Equal(one, two) {
		t.Errorf("both are on %v", one)
	}
	// Nothing happens any more: the revision stands still.
	revision := func() string { _, body := f.admin("GET", "/plasmid/v1/units", ""); return body }
	before := revision()
	time.Sleep(2 * time.Second) // there is no event of nothing happening
	if after := revision(); after != before {
		t.Errorf("it goes round:\n%s\n%s", before, after)
	}
}

func (f *fleet) machineID(t *testing.T) {
	f.unit("pin@.service", sleeper+"[X-Fleet]\nMachineID=%i\n")
	var files []string
	at := map[string]string{}
	for _, m := range f.machines() {
		name := "pin@" + m.ID + ".service"
		files, at[name] = append(files, filepath.Join(f.dir, name)), m.Name
	}
	f.mustRun(with("start", files...)...)
	for name, m := range at {
		if on := f.on(name); on[m] != "active" || len(on) != 1 {
			t.Errorf("%s is on %v, not on %s", name, on, m)
		}
	}
}

func (f *fleet) global(t *testing.T) {
	f.sleepers("n", 2)
	g := f.unit("global.service", "[Service]\nExecStart=/bin/sh -c 'echo I am; exec sleep infinity'\n[X-Fleet]\nGlobal=true\n")
	f.mustRun("start", g)
	if n, machines := f.active("global"); n != 4 || len(machines) != 4 {
		t.Errorf("%d on %v", n, machines)
	}
	out := f.mustRun("status", "global")
	if strings.Count(out, "Active: active") != 4 {
		t.Error(out)
	}
	if out := f.mustRun("journal", "--output=cat", "global"); strings.Count(out, "I am") != 4 {
		t.Error(out)
	}
	if out := f.mustRun("journal", "--output=cat", "--machine", f.machine(2), "global"); strings.Count(out, "I am") != 1 {
		t.Error(out)
	}
	if out := f.mustRun("ssh", "--unit", "global", "hostname"); len(strings.Fields(out)) != 4 {
		t.Error(out)
	}
	if out := f.mustRun("ssh", "--unit", "global", "--machine", f.machine(3), "hostname"); out != f.machine(3)+"\n" {
		t.Error(out)
	}
	main := func() map[string]string {
		ids := map[string]string{}
		for _, m := range f.all {
			ids[m] = f.in(m, "systemctl show -p InvocationID --value global.service")
		}
		return ids
	}
	before := main()
	f.mustRun("restart", "global")
	for m, id := range main() {
		if id == before[m] {
			t.Errorf("not restarted on %s", m)
		}
	}
	// Two global units that conflict: the second never appears. That the
	// engine has seen it is known when it says why.
	second := f.unit("second.service", sleeper+"[X-Fleet]\nGlobal=true\nConflicts=global.service\n")
	_, err := f.run("start", "--timeout", "2s", second)
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "Conflicts=global.service excludes (4)") {
		t.Errorf("the second: %v", err)
	}
	if on := f.on("second.service"); len(on) != 0 {
		t.Errorf("it is on %v", on)
	}
	if n, _ := f.active("global"); n != 4 {
		t.Errorf("%d of the first", n)
	}
}

// storeAway cuts a machine off from etcd: its units, in whatever state, stay
// as they are.
func (f *fleet) storeAway(t *testing.T) {
	machine := f.machine(4) // it has no etcd of its own
	f.set(machine, "only", "this")
	only := "[X-Fleet]\nMachineMetadata=only=this\n"
	for _, kind := range []struct{ prefix, section string }{{"single", only}, {"all", only + "Global=true\n"}} {
		f.unit(kind.prefix+"@.service", sleeper+kind.section)
		file := func(i string) string { return filepath.Join(f.dir, kind.prefix+"@"+i+".service") }
		f.mustRun("submit", file("inactive"))
		f.mustRun("load", file("loaded"))
		f.mustRun("start", file("launched"))
	}
	systemd := func() string {
		return f.in(machine, "ls /run/plasmid/units; systemctl show -p Id,LoadState,ActiveState,InvocationID 'single@loaded.service' 'single@launched.service' 'all@loaded.service' 'all@launched.service'")
	}
	list := func() string { return f.mustRun("list-units", "--fields=unit,name,active,sub,load") }
	before, view := systemd(), list()
	f.in(machine, "nft add table inet cut && nft add chain inet cut out '{ type filter hook output priority 0; }' && nft add rule inet cut out tcp dport 2379 reject with tcp reset")
	cut := true
	mend := func() {
		if cut {
			f.in(machine, "nft delete table inet cut")
			cut = false
		}
	}
	defer mend()
	// Longer than the machine's lease: it is silent, and answers the engine.
	f.until(40*time.Second, "the machine is silent", func() error { return f.alive(3) })
	if now := systemd(); now != before {
		t.Errorf("cut off from the store:\n%s\nbefore:\n%s", now, before)
	}
	if out := f.in(machine, "journalctl -q --no-pager -o cat -u 'single@*' -u 'all@*' | grep -i stopp || true"); out != "" {
		t.Error(out)
	}
	// The daemon stops cleanly without the store.
	f.in(machine, "systemctl stop plasmidd")
	if out := f.in(machine, "systemctl show -p Result --value plasmidd"); out != "success\n" {
		t.Errorf("stopped without the store: %s", out)
	}
	f.in(machine, "systemctl start --no-block plasmidd")
	mend()
	f.until(40*time.Second, "the machine is back", func() error { return f.alive(4) })
	f.until(20*time.Second, "the view is as before", func() error {
		if now := list(); now != view {
			return errors.New(now)
		}
		return nil
	})
	if now := systemd(); now != before {
		t.Errorf("back:\n%s\nbefore:\n%s", now, before)
	}
}

// daemon: to reload, stop or kill plasmidd does nothing to its units.
func (f *fleet) daemon(t *testing.T) {
	f.sleepers("d", 4)
	before := f.invocations("d@")
	machine := f.machine(2)
	result := func(want string) {
		t.Helper()
		if out := f.in(machine, "systemctl show -p Result --value plasmidd"); out != want+"\n" {
			t.Errorf("Result=%s", out)
		}
	}
	answers := func() {
		t.Helper()
		f.until(20*time.Second, "the API answers", func() error {
			_, err := f.run("--endpoint", "https://"+f.address(machine)+":7480", "list-units")
			return err
		})
	}
	pid := f.in(machine, "systemctl show -p MainPID --value plasmidd")
	f.in(machine, "systemctl kill -s HUP plasmidd")
	f.until(20*time.Second, "the daemon is a new one", func() error {
		if now := f.in(machine, "systemctl show -p MainPID --value plasmidd"); now == pid || now == "0\n" {
			return errors.New(now)
		}
		return nil
	})
	answers()
	result("success")
	f.in(machine, "systemctl stop plasmidd")
	if out := f.in(machine, "systemctl show -p ActiveState --value plasmidd"); out != "inactive\n" {
		t.Error(out)
	}
	result("success")
	f.in(machine, "systemctl start plasmidd")
	answers()
	f.until(20*time.Second, "nothing changed", func() error {
		if now := f.invocations("d@"); !maps.Equal(now, before) {
			return fmt.Errorf("%v, before %v", now, before)
		}
		return nil
	})
}

// machineOf: pairs stay together, also when their machine goes.
func (f *fleet) machineOf(t *testing.T) {
	var files, names []string
	for i := range 3 {
		ping, pong := fmt.Sprintf("ping%d.service", i), fmt.Sprintf("pong%d.service", i)
		files = append(files, f.unit(ping, sleeper), f.unit(pong, sleeper+"[X-Fleet]\nMachineOf="+ping+"\n"))
		names = append(names, ping, pong)
	}
	f.mustRun(with("start", files...)...)
	together := func() map[string]string {
		at, err := f.places()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if a, b := at[names[2*i]], at[names[2*i+1]]; a == "" || a != b {
				t.Errorf("%s is on %s, %s on %s", names[2*i], a, names[2*i+1], b)
			}
		}
		return at
	}
	at := together()
	victim := at["ping1.service"]
	f.mustRun("local", "power-off", victim)
	f.until(40*time.Second, "all run elsewhere", func() error { return f.allActive(names, victim) })
	after := together()
	for n, m := range at {
		if m != victim && after[n] != m {
			t.Errorf("%s moved from %s to %s", n, m, after[n])
		}
	}
	f.mustRun("local", "power-on", victim)
	f.until(60*time.Second, "it is back", func() error { return f.alive(4) })
}

// machinesGo: of three that conflict, on four machines, only the one whose
// machine goes moves, and to the free machine; nothing moves when it comes back.
func (f *fleet) machinesGo(t *testing.T) {
	names := []string{"c@1.service", "c@2.service", "c@3.service"}
	files := f.fixtures("c", 3, sleeper+"[X-Fleet]\nConflicts=c@*.service\n")
	pinned := f.unit("pinned.service", sleeper)
	f.mustRun(with("start", files...)...)
	before, err := f.places()
	if err != nil {
		t.Fatal(err)
	}
	free := ""
	for _, m := range f.all {
		if !slices.Contains(slices.Collect(maps.Values(before)), m) {
			free = m
		}
	}
	victim := before["c@1.service"]
	f.unit("pinned.service", sleeper+"[X-Fleet]\nMachineID="+f.id(victim)+"\n")
	f.mustRun("start", pinned)
	f.mustRun("local", "shut-down", victim)
	f.until(60*time.Second, "the machine is gone and its unit moved", func() error {
		if err := f.alive(3); err != nil {
			return err
		}
		return f.allActive(names, victim)
	})
	after, err := f.places()
	if err != nil {
		t.Fatal(err)
	}
	if after["c@1.service"] != free || after["c@2.service"] != before["c@2.service"] || after["c@3.service"] != before["c@3.service"] {
		t.Errorf("%v, before %v, free was %s", after, before, free)
	}
	// What is bound to the machine runs nowhere, and is not said to run.
	if on, is := after["pinned.service"]; is {
		t.Errorf("pinned is active on %s", on)
	}
	f.asked = free
	code, body := f.admin("GET", "/fleet/v1/state?machineID="+f.id(victim), "")
	if code != 200 || strings.Contains(body, "pinned") {
		t.Errorf("states of the machine that is gone: %s", body)
	}
	f.mustRun("local", "power-on", victim)
	f.until(60*time.Second, "it is back, with what is bound to it", func() error { return f.allActive([]string{"pinned.service"}) })
	back, err := f.places()
	delete(back, "pinned.service")
	if err != nil || !maps.Equal(back, after) {
		t.Errorf("%v %v, before its return %v", back, err, after)
	}
}

// cloned: a machine with another's machine-id is refused by name, and does not
// disturb the other.
func (f *fleet) cloned(t *testing.T) {
	f.sleepers("own", 4)
	before := f.invocations("own@")
	clone := f.machine(4)
	mine, theirs := f.id(clone), f.id(f.machine(1))
	change := func(id string) {
		f.in(clone, "systemctl stop plasmidd; echo "+id+" >/tmp/id; cp /tmp/id /etc/machine-id; systemctl start --no-block plasmidd")
	}
	since := strings.TrimSpace(f.in(clone, "date +%s"))
	change(theirs)
	f.until(30*time.Second, "the clone is refused", func() error {
		out := f.in(clone, "journalctl -q --merge --no-pager -o cat -u plasmidd --since @"+since) // the journal of its own ID
		if !strings.Contains(out, "is used by "+f.machine(1)) {
			return errors.New(out)
		}
		return nil
	})
	change(mine)
	f.until(40*time.Second, "all machines report", func() error { return f.alive(4) })
	f.until(20*time.Second, "nothing moved", func() error {
		if now := f.invocations("own@"); !maps.Equal(now, before) {
			return fmt.Errorf("%v, before %v", now, before)
		}
		return nil
	})
}
