package member

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	stopTimeout   = 60 * time.Second // of the server, before it is killed
	statusTimeout = 2 * time.Second
	lookTimeout   = 10 * time.Minute // of a look at data after a crash: InnoDB replays its log
)

// mariadb is the member's MariaDB: its data, and the server that runs on it.
type mariadb struct {
	settings Settings
	dir      string // what stays on the machine: id, lock, data
	db       *sql.DB

	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has ended
	problem string        // the last error that the server printed
}

func newMariaDB(s Settings, dir string) (*mariadb, error) {
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr = "root", "unix", socket
	c.Timeout, c.ReadTimeout, c.WriteTimeout = statusTimeout, 10*time.Second, 10*time.Second
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(2)
	return &mariadb{settings: s, dir: dir, db: db}, nil
}

// unborn marks data that was made for a cluster which may not come about.
func (m *mariadb) unborn() string { return filepath.Join(m.dir, "unborn") }

// prepare makes the directories and files that a server needs, for its user.
func (m *mariadb) prepare(peers []string, cert, key []byte) error {
	uid, gid, err := mysqlUser()
	if err != nil {
		return err
	}
	for _, d := range []string{runDir, m.settings.Data} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{caFile, cert}, {keyFile, key}, {cnfFile, []byte(m.settings.render(peers))}} {
		if err := os.WriteFile(f.name, f.data, 0o600); err != nil {
			return err
		}
		if err := os.Chown(f.name, uid, gid); err != nil {
			return err
		}
	}
	if err := os.Chown(runDir, uid, gid); err != nil {
		return err
	}
	// Another image may number its users otherwise.
	if info, err := os.Stat(m.settings.Data); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) == uid {
		return err
	}
	return filepath.WalkDir(m.settings.Data, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

func mysqlUser() (uid, gid int, err error) {
	u, err := user.Lookup("mysql")
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

func (m *mariadb) grastate() string { return filepath.Join(m.settings.Data, "grastate.dat") }

// position reads how far the data goes, as far as can be told without a server.
func (m *mariadb) position() (Position, error) {
	none := Position{Seqno: Unknown}
	text, err := os.ReadFile(m.grastate())
	if errors.Is(err, os.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	p, err := parseGrastate(string(text))
	if err == nil {
		return p, nil
	}
	if _, serr := os.Stat(filepath.Join(m.settings.Data, "ibdata1")); errors.Is(serr, os.ErrNotExist) {
		return none, nil // no database has come here yet
	}
	return unread, nil
}

// examine has mariadbd look how far the data goes.
func (m *mariadb) examine(ctx context.Context) (Position, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mariadbd", "--defaults-file="+cnfFile, "--wsrep-recover", "--skip-networking")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	out, err := cmd.CombinedOutput()
	p, perr := parseRecovered(string(out))
	if perr != nil {
		os.Stderr.Write(out)
		return p, errors.Join(perr, err)
	}
	return p, nil
}

// install makes an empty database.
func (m *mariadb) install(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir="+m.settings.Data,
		"--auth-root-authentication-method=socket", "--skip-test-db", "--skip-name-resolve", "--force") // it has no use for this host's name
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mariadb-install-db: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// wipe removes the data.
func (m *mariadb) wipe() error { return os.RemoveAll(m.settings.Data) }

// start runs the server. fresh starts a cluster, else it joins one.
func (m *mariadb) start(fresh bool, p Position) error {
	args := []string{"--defaults-file=" + cnfFile}
	if fresh {
		args = append(args, "--wsrep-new-cluster")
	}
	if !p.Empty() && p.Seqno != Unknown {
		args = append(args, "--wsrep_start_position="+p.String())
	}
	cmd := exec.Command("mariadbd", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout = os.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stderr = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	exited := make(chan struct{})
	m.mu.Lock()
	m.cmd, m.exited, m.problem = cmd, exited, ""
	m.mu.Unlock()
	go m.listen(r)
	go func() {
		_ = cmd.Wait() // what it printed says more
		// A transfer's scripts may outlive the server.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		close(exited)
	}()
	return nil
}

// listen passes the server's log on and remembers its last error.
func (m *mariadb) listen(r io.ReadCloser) {
	defer r.Close()
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		os.Stderr.WriteString(line)
		if _, what, ok := strings.Cut(line, "[ERROR] "); ok {
			m.mu.Lock()
			m.problem = strings.TrimSpace(what)
			m.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

func (m *mariadb) lastProblem() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem
}

// ended is closed when the server has ended; nil, which is never, if none was
// started.
func (m *mariadb) ended() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exited
}

func (m *mariadb) runs() bool {
	e := m.ended()
	if e == nil {
		return false
	}
	select {
	case <-e:
		return false
	default:
		return true
	}
}

// stop shuts the server down.
func (m *mariadb) stop() {
	if !m.runs() {
		return
	}
	m.mu.Lock()
	cmd, exited := m.cmd, m.exited
	m.mu.Unlock()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(stopTimeout):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
	}
}

// status asks the server.
func (m *mariadb) status(ctx context.Context) (Server, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	rows, err := m.db.QueryContext(ctx, `SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status','wsrep_ready',
		'wsrep_connected','wsrep_local_state','wsrep_cluster_state_uuid','wsrep_local_recv_queue','wsrep_incoming_addresses')`)
	if err != nil {
		return Server{}, err
	}
	defer rows.Close()
	vars := map[string]string{}
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			return Server{}, err
		}
		vars[k] = v
	}
	return serverOf(vars), rows.Err()
}

// serverOf reads MariaDB's status variables.
func serverOf(vars map[string]string) Server {
	const synced = "4" // https://mariadb.com/kb/en/galera-cluster-status-variables/#wsrep_local_state
	s := Server{Primary: vars["wsrep_cluster_status"] == "Primary", UUID: vars["wsrep_cluster_state_uuid"]}
	s.Synced = s.Primary && vars["wsrep_ready"] == "ON" && vars["wsrep_local_state"] == synced
	s.Closed = vars["wsrep_connected"] == "OFF"
	s.Queue, _ = strconv.Atoi(vars["wsrep_local_recv_queue"])
	for _, a := range strings.Split(vars["wsrep_incoming_addresses"], ",") {
		if host, _, err := net.SplitHostPort(strings.TrimSpace(a)); err == nil {
			s.Members = append(s.Members, host)
		}
	}
	return s
}

// User and Database are what apps use.
const (
	User     = "app"
	Database = "app"
)

// accounts makes the database and its user, unless they are there. They are in
// the cluster, not only in this member.
func (m *mariadb) accounts(ctx context.Context, password string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var n int
	if err := m.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM mysql.global_priv WHERE User = ?", User).Scan(&n); err != nil || n > 0 {
		return err
	}
	for _, q := range []string{
		"CREATE DATABASE IF NOT EXISTS " + Database,
		// The password is random letters and digits.
		"CREATE USER IF NOT EXISTS " + User + "@'%' IDENTIFIED BY '" + password + "' REQUIRE SSL",
		"GRANT ALL ON " + Database + ".* TO " + User + "@'%'",
	} {
		if _, err := m.db.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("making the database user %s: %w", User, err)
		}
	}
	return nil
}
