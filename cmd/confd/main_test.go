package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"plasmid/runtime/store/etcdtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"confd": main})
}

func TestScripts(t *testing.T) {
	server := etcdtest.Start(t)
	client := server.Client()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("NODE", strings.TrimPrefix(server.Endpoint, "http://"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// put KEY VALUE writes to etcd.
			"put": func(ts *testscript.TestScript, _ bool, args []string) {
				_, err := client.Put(t.Context(), args[0], args[1])
				ts.Check(err)
			},
			// until FILE TEXT waits for a file to hold a text.
			"until": func(ts *testscript.TestScript, _ bool, args []string) {
				deadline := time.Now().Add(20 * time.Second)
				for {
					data, _ := os.ReadFile(ts.MkAbs(args[0]))
					if strings.Contains(string(data), args[1]) {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("%s holds %q, not %q", args[0], data, args[1])
					}
					time.Sleep(5 * time.Millisecond)
				}
			},
			// here puts the work directory where files say WORK: destinations
			// are absolute.
			"here": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, f := range args {
					ts.Check(os.WriteFile(ts.MkAbs(f), []byte(strings.ReplaceAll(ts.ReadFile(f), "WORK", ts.Getenv("WORK"))), 0o644))
				}
			},
			// mode FILE MODE compares.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[0]))
				ts.Check(err)
				if got := info.Mode().Perm().String(); got != args[1] {
					ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
				}
			},
		},
	})
}

// As the first process of a container confd collects the processes that are
// left to it, hands signals on and ends with its child's code.
func TestFirstProcess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("a PID namespace needs root")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "confd")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, text := range map[string]string{
		"conf.d/a.toml": "[template]\nsrc = 'a'\ndest = '" + dir + "/out'\nkeys = ['/']\n" +
			// It leaves orphans that end at once, and one that looks for them.
			"reload_cmd = '''for i in 1 2 3 4 5; do (sh -c 'exit 0' &) ; done; " +
			"(sh -c 'sleep 0.5; cat /proc/[0-9]*/stat | grep -c \" Z \" > " + dir + "/zombies') >/dev/null 2>&1 & '''\n",
		"templates/a": "x",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Its own /proc, for what looks for zombies and for confd itself.
	cmd := exec.Command("sh", "-c", `mount -t proc proc /proc && exec "$0" "$@"`, binary, "-watch", "-backend", "env", "-confdir", dir)
	cmd.Stderr = os.Stderr
	// Unshared, not cloned: then Go makes the mounts private first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.Now().Add(20 * time.Second)
	for {
		data, err := os.ReadFile(filepath.Join(dir, "zombies"))
		if err == nil && len(data) > 0 {
			if strings.TrimSpace(string(data)) != "0" {
				t.Errorf("%s zombies are left", strings.TrimSpace(string(data)))
			}
			break
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			<-ended
			t.Fatal("the reload's orphan never looked")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Errorf("after SIGTERM: %v, want a clean end", err)
		}
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		t.Error("SIGTERM did not end it")
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "confd.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	parse := func(args ...string) *settings {
		t.Helper()
		s, err := parseSettings(append([]string{"-config-file", conf}, args...), os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Setenv("CONFD_CLIENT_CAKEYS", "/env.crt")
	write("backend = 'env'\ninterval = 5\nprefix = '/file'\nclient_cakeys = '/file.crt'\nnodes = ['a', 'b']\nlog-level = 'warning'\n")
	s := parse("-prefix", "/flag")
	if s.backend != "env" || s.interval != 5*time.Second || s.prefix != "/flag" || s.ca != "/env.crt" || s.nodes.String() != "a,b" || s.level.String() != "WARN" {
		t.Errorf("flag over environment over file: %+v", s)
	}
	if s = parse("-client-ca-keys", "/flag.crt", "-node", "c", "-node", "d,e"); s.ca != "/flag.crt" || s.nodes.String() != "c,d,e" {
		t.Errorf("flags: %+v", s)
	}
	// confd 0.3's configuration, and a template resource in its place.
	write("[confd]\nconfdir = '/old'\ninterval = 7\netcd_nodes = ['http://x:4001']\netcd_scheme = 'https'\n")
	if s = parse(); s.confdir != "/old" || s.interval != 7*time.Second || s.nodes.String() != "http://x:4001" || s.scheme != "https" || len(s.warnings) > 0 {
		t.Errorf("confd 0.3's file: %+v", s)
	}
	write("[template]\nsrc = 'a'\ndest = '/a'\nkeys = ['/']\n")
	if s = parse("-onetime", "-verbose"); !s.onetime || len(s.warnings) > 0 {
		t.Errorf("a resource as configuration: %+v", s)
	}
	write("intervall = 7\n")
	if s = parse(); len(s.warnings) != 1 || !strings.Contains(s.warnings[0], "line 1: unknown setting intervall") {
		t.Errorf("warnings %q", s.warnings)
	}
	write("")
	t.Setenv("CONFD_PASSWORD", "fromenv")
	if s = parse("-basic-auth", "-username", "u"); s.password != "fromenv" || s.username != "u" {
		t.Errorf("basic auth: %+v", s)
	}
	if s = parse("-username", "u"); s.username != "" || s.password != "" {
		t.Errorf("a user without -basic-auth: %+v", s)
	}
	if err := s.findNodes(t.Context()); err != nil || s.nodes.String() != "http://127.0.0.1:2379" {
		t.Errorf("default node: %v %v", s.nodes, err)
	}
	for args, want := range map[string]string{
		"-backend consul":     "none of etcd, etcdv3, env, file",
		"-backend file":       "needs -file",
		"-interval 0":         "at least one second",
		"-client-cert x":      "go together",
		"-log-level loud":     "none of debug",
		"-scheme ftp":         "neither http nor https",
		"now":                 "unexpected argument",
		"-nonsense":           "not defined",
		"-config-file /none/": "no such file",
	} {
		if _, err := parseSettings(strings.Fields(args), new(strings.Builder)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}
