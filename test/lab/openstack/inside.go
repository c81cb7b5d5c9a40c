package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"plasmid/test/lab/openstack/conf"
)

// Files that process 1 gets from its parent.
const (
	orderFD = 3
	eventFD = 4
)

// order is what process 1 is told to do, in a file without a name: passwords
// have no business in arguments.
type order struct {
	Cgroup   string
	Root     string   // where the lab's tree gets mounted
	Lower    []string // what is read of the tree, the topmost first
	Upper    string   // what is written of it
	Work     string
	State    string // the directory of logs and status.json, seen from the host
	Settings conf.Settings
	Setup    bool // make the databases and end
}

// stateDir is order.State as seen inside.
const stateDir = "/var/log/plasmid-lab"

func readOrder() (order, error) {
	var o order
	f := os.NewFile(orderFD, "order")
	if _, err := f.Seek(0, 0); err != nil {
		return o, fmt.Errorf("this command is for the lab itself: %w", err)
	}
	return o, json.NewDecoder(f).Decode(&o)
}

// enter is the first stage of process 1: it enters its control groups and
// becomes the second stage. A cgroup
// namespace belongs to a thread, and only what this thread executes has it.
func enter() error {
	runtime.LockOSThread()
	o, err := readOrder()
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := enterCgroup(o.Cgroup); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, []string{os.Args[0], insideCommand, "services"}, os.Environ())
}

// inside is the second stage: it makes the lab's tree its root, starts the
// services and stays.
func inside() error {
	o, err := readOrder()
	if err != nil {
		return err
	}
	unix.CloseOnExec(orderFD)
	events := os.NewFile(eventFD, "events")
	unix.CloseOnExec(eventFD)
	signal.Ignore(unix.SIGPIPE)
	report := &reporter{pipe: json.NewEncoder(events), file: filepath.Join(stateDir, "status.json"),
		status: status{Tier: string(o.Settings.Tier), Services: map[string]string{}}}
	err = mountTree(o)
	if err == nil {
		report.status.FileSystem, err = device("/")
	}
	if err != nil {
		report.fail(err)
		return err
	}
	report.save()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-stop; cancel() }()

	s := newSupervisor(stateDir)
	api := &cloud{password: o.Settings.Password}
	l := &lab{supervisor: s, report: report, heart: api.heartbeats, running: map[string]*process{}}
	err = l.prepare(ctx, o.Settings)
	if err == nil {
		if o.Setup {
			err = l.setUp(ctx, api)
		} else {
			err = l.bringUp(ctx, services(o.Settings.Tier))
		}
	}
	if err != nil {
		report.fail(err)
		return err
	}
	report.tell(event{Done: true})
	events.Close()
	if o.Setup {
		return nil
	}
	<-ctx.Done()
	return nil
}

// mountTree makes the tree this process's root.
func mountTree(o order) error {
	all, err := mountedHierarchies()
	if err != nil {
		return err
	}
	type mount struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}
	data := "lowerdir=" + strings.Join(o.Lower, ":") + ",upperdir=" + o.Upper + ",workdir=" + o.Work
	mounts := []mount{
		{"overlay", "", "overlay", 0, data},
		{"proc", "proc", "proc", 0, ""},
		{"sysfs", "sys", "sysfs", 0, ""},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", "run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "tmp", "tmpfs", 0, "mode=1777"},
		{o.State, stateDir, "", unix.MS_BIND, ""},
	}
	// libvirt wants what it finds of control groups either all in version 1
	// or all in version 2.
	var v1, v2 []mount
	for _, h := range all {
		if h.Unified {
			v2 = append(v2, mount{"cgroup2", "sys/fs/cgroup", "cgroup2", 0, ""})
		} else {
			v1 = append(v1, mount{"cgroup", "sys/fs/cgroup/" + filepath.Base(h.Dir), "cgroup", 0, h.Options})
		}
	}
	if len(v1) > 0 {
		mounts = append(append(mounts, mount{"tmpfs", "sys/fs/cgroup", "tmpfs", 0, "mode=755"}), v1...)
	} else {
		mounts = append(mounts, v2...)
	}
	for _, m := range mounts {
		target := filepath.Join(o.Root, m.target)
		if m.kind != "sysfs" {
			if err := os.MkdirAll(target, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.source, target, err)
		}
	}
	old := filepath.Join(o.Root, "mnt")
	if err := unix.PivotRoot(o.Root, old); err != nil {
		return fmt.Errorf("changing to the lab's tree: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/mnt", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Sethostname([]byte(conf.Host))
}

// prepare writes the configuration and makes what the services expect to be
// there: directories that a boot would make, and the lab's network.
func (l *lab) prepare(ctx context.Context, s conf.Settings) error {
	files, err := conf.Files(s)
	if err != nil {
		return err
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	if err := replaceController(); err != nil {
		return err
	}
	for _, dir := range []string{
		"/run/mysqld", "/run/rabbitmq", "/run/libvirt", "/run/dbus", "/run/netns", "/run/lock/nova", "/run/lock/glance",
		"/run/lock/neutron", "/run/lock/keystone", "/run/nova", "/run/neutron", "/run/glance", "/run/keystone", "/run/placement",
		"/var/lib/glance/images", "/var/lib/nova/instances",
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	commands := []string{
		"chown mysql: /run/mysqld", "chown rabbitmq: /run/rabbitmq",
		"ip link set lo up",
		"ip link add " + conf.ExternalBridge + " type bridge",
		"ip addr add " + conf.IP + "/24 dev " + conf.ExternalBridge,
		"ip link set " + conf.ExternalBridge + " up",
		"ip link add " + conf.ProviderBridge + " type bridge",
		"ip addr add " + conf.ProviderIP + "/24 dev " + conf.ProviderBridge,
		"ip link set " + conf.ProviderBridge + " up",
	}
	for _, c := range commands {
		if err := l.run(ctx, "prepare", command{argv: []string{"sh", "-ec", c}}); err != nil {
			return err
		}
	}
	return nil
}

// setUp makes the databases, the catalogue and what every lab starts with,
// and leaves no service running.
func (l *lab) setUp(ctx context.Context, api *cloud) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	all := services(conf.Fake)
	byName := map[string]service{}
	for _, s := range all {
		byName[s.name] = s
	}
	if err := l.bringUp(ctx, []service{byName["mariadb"]}); err != nil {
		return err
	}
	if err := l.makeDatabases(ctx, api.password); err != nil {
		return err
	}
	if err := l.bringUp(ctx, []service{byName["mariadb"], byName["keystone"]}); err != nil {
		return err
	}
	if err := api.catalogue(ctx); err != nil {
		return fmt.Errorf("filling the catalogue: %w", err)
	}
	if err := l.bringUp(ctx, all); err != nil {
		return err
	}
	if err := l.run(ctx, "discover-hosts", command{argv: []string{"nova-manage", "cell_v2", "discover_hosts"}}); err != nil {
		return err
	}
	if err := api.seed(ctx); err != nil {
		return fmt.Errorf("making what every lab starts with: %w", err)
	}
	var others []*process
	for name, p := range l.running {
		if name != "mariadb" {
			others = append(others, p)
		}
	}
	l.stop(20*time.Second, others...)
	l.stop(time.Minute, l.running["mariadb"])
	l.ends.Wait()
	// Queues of services that are no more.
	return os.RemoveAll("/var/lib/rabbitmq/mnesia")
}

// makeDatabases makes all tables, in two lines of work: one of the services
// needs as long as the others together.
func (l *lab) makeDatabases(ctx context.Context, password string) error {
	var sql string
	for _, d := range conf.Databases {
		sql += "CREATE DATABASE " + d + " CHARACTER SET utf8mb3;\n"
	}
	if err := l.run(ctx, "databases", command{argv: []string{"mysql", "-uroot"}, stdin: sql}); err != nil {
		return err
	}
	url := "http://" + conf.IP + ":5000/v3"
	type step struct {
		name string
		cmd  command
	}
	do := func(steps ...step) error {
		for _, s := range steps {
			began := time.Now()
			if err := l.run(ctx, s.name, s.cmd); err != nil {
				return err
			}
			l.report.tell(event{Service: s.name, State: "done", Seconds: time.Since(began).Seconds()})
		}
		return nil
	}
	cmd := func(argv ...string) command { return command{argv: argv} }
	neutron := make(chan error, 1)
	go func() {
		neutron <- do(step{"neutron-sync", cmd("neutron-db-manage", neutronConf, "--config-file=/etc/neutron/plugins/ml2/ml2_conf.ini", "upgrade", "head")})
	}()
	err := do(
		step{"keystone-sync", cmd("keystone-manage", "db_sync")},
		step{"keystone-fernet", cmd("keystone-manage", "fernet_setup", "--keystone-user=root", "--keystone-group=root")},
		step{"keystone-credential", cmd("keystone-manage", "credential_setup", "--keystone-user=root", "--keystone-group=root")},
		step{"keystone-bootstrap", command{
			argv: []string{"keystone-manage", "bootstrap", "--bootstrap-service-name=keystone", "--bootstrap-region-id=" + conf.Region,
				"--bootstrap-public-url=" + url, "--bootstrap-internal-url=" + url, "--bootstrap-admin-url=" + url},
			env: []string{"OS_BOOTSTRAP_PASSWORD=" + password},
		}},
		step{"glance-sync", cmd("glance-manage", "db_sync")},
		step{"placement-sync", cmd("placement-manage", "db", "sync")},
		step{"nova-api-sync", cmd("nova-manage", "api_db", "sync")},
		step{"nova-cell0", cmd("nova-manage", "cell_v2", "map_cell0", "--database_connection", conf.Connection("nova_cell0"))},
		step{"nova-sync", cmd("nova-manage", "db", "sync")},
		step{"nova-cell1", cmd("nova-manage", "cell_v2", "create_cell", "--name=cell1")},
	)
	if nerr := <-neutron; err == nil {
		err = nerr
	}
	return err
}
