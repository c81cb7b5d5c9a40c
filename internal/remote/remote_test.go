package remote

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func hostKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sshServer is a machine that answers "cat" with its input, "fail" with an
// error and "hang" never.
func sshServer(t *testing.T, ln net.Listener, key ssh.Signer, authorized ssh.PublicKey) {
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "core" || !bytes.Equal(k.Marshal(), authorized.Marshal()) {
			return nil, io.EOF
		}
		return nil, nil
	}}
	cfg.AddHostKey(key)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, chans, reqs, err := ssh.NewServerConn(c, cfg)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(reqs)
				for ch := range chans {
					go serveChannel(ch)
				}
			}()
		}
	}()
}

func serveChannel(n ssh.NewChannel) {
	ch, reqs, err := n.Accept()
	if err != nil {
		return
	}
	for r := range reqs {
		if r.Type != "exec" {
			r.Reply(false, nil)
			continue
		}
		cmd := string(r.Payload[4:])
		r.Reply(true, nil)
		status := uint32(0)
		switch cmd {
		case "sudo -n cat":
			io.Copy(ch, ch)
		case "sudo -n fail":
			io.WriteString(ch.Stderr(), "it broke\n")
			status = 3
		case "sudo -n hang":
			continue
		}
		ch.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, status))
		ch.Close()
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.43.8.250:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func TestSSH(t *testing.T) {
	operator := hostKey(t)
	key, ln := hostKey(t), listen(t)
	sshServer(t, ln, key, operator.PublicKey())
	c, err := Connect(deadline(t), Target{Name: "t-core-1", Address: ln.Addr().String(), User: "core", Key: operator, HostKey: key.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	secret := strings.Repeat("s3cret", 50000)
	out, err := c.Run(deadline(t), "cat", strings.NewReader(secret))
	if err != nil || string(out) != secret {
		t.Errorf("cat: %d bytes, %v", len(out), err)
	}
	if _, err := c.Run(deadline(t), "fail", nil); err == nil || !strings.Contains(err.Error(), "it broke") || !strings.Contains(err.Error(), "t-core-1") {
		t.Errorf("fail: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Run(ctx, "hang", nil); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("hang: %v", err)
	}
}

func TestSSHRefusesAnotherHostKey(t *testing.T) {
	operator := hostKey(t)
	ln := listen(t)
	sshServer(t, ln, hostKey(t), operator.PublicKey())
	start := time.Now()
	_, err := Connect(deadline(t), Target{Name: "t-core-1", Address: ln.Addr().String(), User: "core", Key: operator, HostKey: hostKey(t).PublicKey()})
	if err == nil || !strings.Contains(err.Error(), "the SSH host key is SHA256:") {
		t.Errorf("got %v", err)
	}
	if time.Since(start) > 10*time.Second {
		t.Error("a wrong host key was tried again")
	}
}

// A machine that boots: first nothing listens, then something that does not
// answer, then the server.
func TestSSHWaitsForTheMachine(t *testing.T) {
	operator := hostKey(t)
	ln := listen(t)
	addr := ln.Addr().String()
	ln.Close()
	key := hostKey(t)
	go func() {
		time.Sleep(2 * retryEvery) // long enough to be refused at least once
		mute, err := net.Listen("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		if c, err := mute.Accept(); err == nil {
			c.Close() // reset during the handshake
		}
		mute.Close()
		up, err := net.Listen("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		sshServer(t, up, key, operator.PublicKey())
	}()
	c, err := Connect(deadline(t), Target{Name: "t-core-1", Address: addr, User: "core", Key: operator, HostKey: key.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = Connect(ctx, Target{Name: "t-core-2", Address: "127.43.8.251:1", User: "core", Key: operator, HostKey: key.PublicKey()})
	if err == nil || !strings.Contains(err.Error(), "does not let the operator log in") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a dead machine: %v", err)
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
