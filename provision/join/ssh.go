package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// LoginUser is the user that operators log in as.
const LoginUser = "core"

const (
	dialTimeout = 10 * time.Second
	sshRetry    = 200 * time.Millisecond
	// commandTimeout is for one command; none of ours waits for a service.
	commandTimeout = time.Minute
)

// machineConn is an SSH connection to a machine.
type machineConn struct {
	*ssh.Client
	name string
}

// connect logs in as soon as the machine lets it, until ctx ends. Only the
// pinned host key is taken.
func (a *Access) connect(ctx context.Context, name, addr string, pinned ssh.PublicKey) (*machineConn, error) {
	config := &ssh.ClientConfig{
		User: LoginUser,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(a.sshKey)},
		HostKeyCallback: func(_ string, _ net.Addr, got ssh.PublicKey) error {
			if !bytes.Equal(got.Marshal(), pinned.Marshal()) {
				return &hostKeyError{got, pinned}
			}
			return nil
		},
		HostKeyAlgorithms: []string{pinned.Type()},
		Timeout:           dialTimeout,
	}
	for {
		client, err := dialSSH(ctx, addr, config)
		if err == nil {
			return &machineConn{client, name}, nil
		}
		var wrong *hostKeyError
		if errors.As(err, &wrong) {
			return nil, fmt.Errorf("machine %s at %s: %w", name, addr, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("machine %s does not let the operator log in at %s: %w", name, addr, errors.Join(ctx.Err(), err))
		case <-time.After(sshRetry):
		}
	}
}

// hostKeyError is an answer from something that is not the machine; waiting
// does not help.
type hostKeyError struct{ got, pinned ssh.PublicKey }

func (e *hostKeyError) Error() string {
	return fmt.Sprintf("the SSH host key is %s, expected %s; another machine answers at this address, or somebody is in between",
		ssh.FingerprintSHA256(e.got), ssh.FingerprintSHA256(e.pinned))
}

func dialSSH(ctx context.Context, addr string, config *ssh.ClientConfig) (*ssh.Client, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// The handshake has no deadline of its own.
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, addr, config)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		c.Close()
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// run executes a command as root. What goes in and out are files, never
// arguments, so that nothing of them shows in a list of processes.
func (c *machineConn) run(ctx context.Context, command string, stdin io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	// A machine that went away answers nothing, not even to this.
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s, err := c.NewSession()
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", c.name, err)
	}
	defer s.Close()
	var stdout, stderr bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = stdin, &stdout, &stderr
	if err := s.Run("sudo -n " + command); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("%s on machine %s: %w: %s", command, c.name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// writeKnownHosts lists the pinned host keys for ssh(1).
func (a *Access) writeKnownHosts(keys map[string]ssh.PublicKey) error {
	var b strings.Builder
	old, err := os.ReadFile(a.file("known_hosts"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(old)) {
		addr, _, _ := strings.Cut(line, " ")
		if _, replaced := keys[addr]; !replaced {
			b.WriteString(line)
		}
	}
	for addr, key := range keys {
		b.WriteString(knownhosts.Line([]string{addr}, key) + "\n")
	}
	return a.write("known_hosts", []byte(b.String()))
}
