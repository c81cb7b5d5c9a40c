// Package remote runs commands on machines over SSH.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	dialTimeout = 10 * time.Second
	retryEvery  = 200 * time.Millisecond
	// commandTimeout is for one command, unless the caller gives it less.
	commandTimeout = time.Minute
)

// Target is a machine and who it must be.
type Target struct {
	Name    string // for messages
	Address string // host:port
	User    string // may become root by sudo without a password
	Key     ssh.Signer
	HostKey ssh.PublicKey // no other is accepted
	Dial    Dialer        // the way there; nil: a direct one
}

// Dialer connects to an address, by way of another machine say.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Conn is a connection to a machine.
type Conn struct {
	*ssh.Client
	Name string // of the machine
}

// Connect logs in as soon as the machine lets it, until ctx ends. A machine
// with another host key is an error at once, a *HostKeyError.
func Connect(ctx context.Context, t Target) (*Conn, error) {
	config := &ssh.ClientConfig{
		User: t.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(t.Key)},
		HostKeyCallback: func(_ string, _ net.Addr, got ssh.PublicKey) error {
			if !bytes.Equal(got.Marshal(), t.HostKey.Marshal()) {
				return &HostKeyError{got, t.HostKey}
			}
			return nil
		},
		HostKeyAlgorithms: []string{t.HostKey.Type()},
		Timeout:           dialTimeout,
	}
	for {
		client, err := dial(ctx, t.Dial, t.Address, config)
		if err == nil {
			return &Conn{client, t.Name}, nil
		}
		var wrong *HostKeyError
		if errors.As(err, &wrong) {
			return nil, fmt.Errorf("machine %s at %s: %w", t.Name, t.Address, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("machine %s does not let the operator log in at %s: %w", t.Name, t.Address, errors.Join(ctx.Err(), err))
		case <-time.After(retryEvery):
		}
	}
}

// HostKeyError is an answer from something that is not the machine; waiting
// does not help.
type HostKeyError struct{ Got, Pinned ssh.PublicKey }

func (e *HostKeyError) Error() string {
	return fmt.Sprintf("the SSH host key is %s, expected %s; another machine answers at this address, or somebody is in between",
		ssh.FingerprintSHA256(e.Got), ssh.FingerprintSHA256(e.Pinned))
}

func dial(ctx context.Context, to Dialer, addr string, config *ssh.ClientConfig) (*ssh.Client, error) {
	if to == nil {
		to = (&net.Dialer{Timeout: config.Timeout}).DialContext
	}
	conn, err := to(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// The handshake has no deadline of its own.
	if err := conn.SetDeadline(time.Now().Add(config.Timeout)); err != nil {
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

// Run executes a command as root and returns its standard output. What goes in and out are files, never
// arguments, so that nothing of them shows in a list of processes.
func (c *Conn) Run(ctx context.Context, command string, stdin io.Reader) ([]byte, error) {
	return c.RunWithin(ctx, commandTimeout, command, stdin)
}

// RunWithin is Run with another deadline than that of most commands.
func (c *Conn) RunWithin(ctx context.Context, d time.Duration, command string, stdin io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	// A machine that went away answers nothing, not even to this.
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s, err := c.NewSession()
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", c.Name, err)
	}
	defer s.Close()
	var stdout, stderr bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = stdin, &stdout, &stderr
	if err := s.Run("sudo -n " + command); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("%s on machine %s: %w: %s", command, c.Name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}
