package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// serve makes a machine with a host key, at an address of its own.
func serve(t *testing.T, addr string, host ssh.Signer, user ssh.PublicKey) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	sshServer(t, ln, host, user)
	return ln
}

// keyFile writes a new private key.
func keyFile(t *testing.T) (file string, public ssh.PublicKey, private ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "t")
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return file, s.PublicKey(), private
}

// TestKnownHosts goes through a machine's life: unknown, known, replaced,
// forgotten.
func TestKnownHosts(t *testing.T) {
	file, user, _ := keyFile(t)
	ln := serve(t, "127.0.0.1:0", hostKey(t), user)
	addr := ln.Addr().String()
	hosts := &KnownHosts{File: filepath.Join(t.TempDir(), "dir", "known_hosts")}
	login := Login{Address: addr, User: "core", KeyFiles: []string{"/none", file}, KnownHosts: hosts}
	try := func() error {
		if err := CheckHost(t.Context(), addr, hosts, time.Minute); err != nil {
			return err
		}
		c, err := Dial(t.Context(), login)
		if err == nil {
			c.Close()
		}
		return err
	}
	wants := func(err error, says string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %s", err, says)
		}
	}

	wants(try(), "is not in "+hosts.File)
	asked := 0
	hosts.Ask = func(q string) bool { asked++; return false }
	wants(try(), "is not in "+hosts.File)
	hosts.Ask = func(q string) bool {
		asked++
		return strings.Contains(q, "SHA256:") && strings.Contains(q, addr)
	}
	if err := try(); err != nil || asked != 2 {
		t.Errorf("%v after %d questions", err, asked)
	}
	if err := try(); err != nil || asked != 2 {
		t.Errorf("a known host was asked for: %v", err)
	}

	ln.Close()
	serve(t, addr, hostKey(t), user)
	wants(try(), hosts.File+" line 1 has another one")
	if asked != 2 {
		t.Error("a host that changed was asked for")
	}
	any := login
	any.KnownHosts = &KnownHosts{Any: true}
	if c, err := Dial(t.Context(), any); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if err := os.WriteFile(hosts.File, []byte("# empty"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := try(); err != nil || asked != 3 {
		t.Errorf("%v after %d questions", err, asked)
	}
	if data, err := os.ReadFile(hosts.File); err != nil || strings.Count(string(data), "\n") != 2 {
		t.Errorf("%q %v", data, err)
	}
}

// TestAgent logs in with a key that only ssh-agent has.
func TestAgent(t *testing.T) {
	_, user, private := keyFile(t)
	ln := serve(t, "127.0.0.1:0", hostKey(t), user)
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	al, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer al.Close()
	go func() {
		for {
			c, err := al.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keys, c) }()
		}
	}()
	l := Login{Address: ln.Addr().String(), User: "core", Agent: socket, KnownHosts: &KnownHosts{Any: true}}
	c, err := Dial(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := Pipe(c, "sudo -n cat")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "through"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 7)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "through" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLoginErrors(t *testing.T) {
	file, _, _ := keyFile(t)
	_, other, _ := keyFile(t)
	ln := serve(t, "127.0.0.1:0", hostKey(t), other)
	hosts := &KnownHosts{Any: true}
	for _, tt := range []struct {
		l    Login
		want string
	}{
		{Login{Address: ln.Addr().String(), User: "core", KeyFiles: []string{file}, KnownHosts: hosts}, "does not let core in with any of " + file},
		{Login{Address: ln.Addr().String(), User: "core", KnownHosts: hosts}, "there is no SSH key to log in with"},
		{Login{Address: ln.Addr().String(), User: "core", Agent: "/none", KnownHosts: hosts}, "ssh-agent"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := Dial(ctx, tt.l)
		cancel()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}
