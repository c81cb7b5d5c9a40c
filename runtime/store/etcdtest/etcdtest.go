// Package etcdtest runs real etcd servers for tests.
package etcdtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Server is an etcd of one member on loopback, without TLS.
type Server struct {
	t        testing.TB
	Endpoint string
	args     []string
	dir      string
	cmd      *exec.Cmd
}

// Start runs the etcd that PLASMID_ETCD names, or else the one in PATH, until
// the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	binary := os.Getenv("PLASMID_ETCD")
	if binary == "" {
		var err error
		if binary, err = exec.LookPath("etcd"); err != nil {
			t.Fatal("no etcd in PATH; run the tests with make test, or name one in PLASMID_ETCD")
		}
	}
	client, peer := freeAddr(t), freeAddr(t)
	s := &Server{t: t, Endpoint: "http://" + client, dir: filepath.Join(t.TempDir(), "etcd")}
	s.args = []string{binary, "--name", "t", "--log-level", "error",
		"--listen-client-urls", s.Endpoint, "--advertise-client-urls", s.Endpoint,
		"--listen-peer-urls", "http://" + peer, "--initial-advertise-peer-urls", "http://" + peer,
		"--initial-cluster", "t=http://" + peer}
	s.Run()
	t.Cleanup(s.Kill)
	return s
}

// freeAddr returns an address that stays free when nobody listens on it. A
// port of 127.0.0.1 would not: clients' ends of connections are there too, and
// one may take it while the server is down.
func freeAddr(t testing.TB) string {
	t.Helper()
	host := fmt.Sprintf("127.%d.%d.%d", 64+rand.N(64), rand.N(256), 1+rand.N(254))
	l, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Run starts the server and waits until it answers.
func (s *Server) Run() {
	s.t.Helper()
	s.cmd = exec.Command(s.args[0], append(s.args[1:], "--data-dir", s.dir)...)
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	c := s.Client()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		rctx, rcancel := context.WithTimeout(ctx, time.Second)
		_, err := c.Get(rctx, "x")
		rcancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			s.t.Fatal(fmt.Errorf("etcd does not answer: %w", err))
		}
	}
}

// Kill ends the server as a crash would. Run starts it again with its data.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Keep copies the data of a server that was killed, and returns what puts the
// copy in place of what it has when that is called, the server being killed again.
func (s *Server) Keep() (restore func()) {
	s.t.Helper()
	kept := filepath.Join(s.t.TempDir(), "kept")
	if err := os.CopyFS(kept, os.DirFS(s.dir)); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		s.Wipe()
		if err := os.CopyFS(s.dir, os.DirFS(kept)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// Wipe removes the data of a server that was killed.
func (s *Server) Wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatal(err)
	}
}

// Signal sends SIGSTOP or SIGCONT, for a store that is slow or away.
func (s *Server) Signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Client is a plain client, closed when the test ends.
func (s *Server) Client() *clientv3.Client {
	s.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}
