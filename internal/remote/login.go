package remote

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Login is how somebody logs in to a machine that nobody vouched for before:
// with what ssh(1) would use.
type Login struct {
	Address    string // host:port
	User       string
	KeyFiles   []string // private keys; those that do not exist are passed over
	Agent      string   // path of ssh-agent's socket; empty: none
	KnownHosts *KnownHosts
	Timeout    time.Duration // for connecting
}

// KnownHosts is a file of host keys, as ssh(1) has it.
type KnownHosts struct {
	File string
	// Ask is asked whether an unknown host is taken and written to the file.
	// nil: it is not.
	Ask func(question string) bool
	// Any takes every key and writes none. Whoever is in between can read and
	// change everything.
	Any bool
}

// Callback checks host keys.
func (k *KnownHosts) Callback(host string, remote net.Addr, key ssh.PublicKey) error {
	if k.Any {
		return nil
	}
	err := k.check(host, remote, key)
	var bad *knownhosts.KeyError
	if !errors.As(err, &bad) {
		return err
	}
	if len(bad.Want) > 0 {
		return fmt.Errorf("the SSH host key of %s is %s, and %s line %d has another one: another machine answers at this address, or somebody is in between; if the machine was replaced, remove that line",
			host, ssh.FingerprintSHA256(key), bad.Want[0].Filename, bad.Want[0].Line)
	}
	if k.Ask == nil || !k.Ask(fmt.Sprintf("The SSH host key of %s is not known. It is %s.\nConnect, and remember it in %s (yes/no)? ", host, ssh.FingerprintSHA256(key), k.File)) {
		return fmt.Errorf("the SSH host key of %s (%s) is not in %s", host, ssh.FingerprintSHA256(key), k.File)
	}
	return k.add(host, key)
}

func (k *KnownHosts) check(host string, remote net.Addr, key ssh.PublicKey) error {
	if _, err := os.Stat(k.File); errors.Is(err, fs.ErrNotExist) {
		return &knownhosts.KeyError{}
	}
	known, err := knownhosts.New(k.File)
	if err != nil {
		return fmt.Errorf("known hosts: %w", err)
	}
	return known(host, remote, key)
}

func (k *KnownHosts) add(host string, key ssh.PublicKey) error {
	if err := os.MkdirAll(filepath.Dir(k.File), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(k.File, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	line := knownhosts.Line([]string{knownhosts.Normalize(host)}, key) + "\n"
	// The last line may have been written by hand, without an end.
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, end-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	return f.Close()
}

// known lists the types of keys that the file has for a host, so that the host
// is asked for one of these.
func (k *KnownHosts) known(host string) []string {
	// No host has this key: asked about it, the file tells those it has.
	probe, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil
	}
	var bad *knownhosts.KeyError
	var types []string
	if err := k.check(host, &net.TCPAddr{}, probe); errors.As(err, &bad) {
		for _, w := range bad.Want {
			if w.Key.Type() == ssh.KeyAlgoRSA { // signed with SHA-1 by that name
				types = append(types, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			} else {
				types = append(types, w.Key.Type())
			}
		}
	}
	return types
}

// Dial logs in once.
func Dial(ctx context.Context, l Login) (*ssh.Client, error) {
	methods, closeAgent, err := l.methods()
	if err != nil {
		return nil, err
	}
	defer closeAgent()
	config := &ssh.ClientConfig{User: l.User, Auth: methods, HostKeyCallback: l.KnownHosts.Callback, Timeout: cmp.Or(l.Timeout, dialTimeout)}
	if !l.KnownHosts.Any {
		config.HostKeyAlgorithms = l.KnownHosts.known(l.Address)
	}
	client, err := dial(ctx, nil, l.Address, config)
	if err != nil && strings.Contains(err.Error(), "unable to authenticate") {
		return nil, fmt.Errorf("%s does not let %s in with any of %s", l.Address, l.User, l.offered())
	}
	if err != nil {
		return nil, fmt.Errorf("SSH to %s: %w", l.Address, err)
	}
	return client, nil
}

// offered says what was tried, for messages.
func (l Login) offered() string {
	var with []string
	if l.Agent != "" {
		with = append(with, "the keys in ssh-agent")
	}
	return strings.Join(append(with, l.KeyFiles...), ", ")
}

func (l Login) methods() ([]ssh.AuthMethod, func(), error) {
	var signers []ssh.Signer
	done := func() {}
	for _, file := range l.KeyFiles {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		s, err := ssh.ParsePrivateKey(data)
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			continue // the agent has it, or ssh-add gives it to the agent
		}
		if err != nil {
			return nil, nil, fmt.Errorf("SSH key %s: %w", file, err)
		}
		signers = append(signers, s)
	}
	if l.Agent != "" {
		conn, err := net.Dial("unix", l.Agent)
		if err == nil {
			done = func() { conn.Close() }
			if more, err := agent.NewClient(conn).Signers(); err == nil {
				signers = append(signers, more...)
			}
		} else if len(signers) == 0 {
			return nil, nil, fmt.Errorf("ssh-agent (SSH_AUTH_SOCK): %w", err)
		}
	}
	if len(signers) == 0 {
		return nil, nil, errors.New("there is no SSH key to log in with; add one to ssh-agent with ssh-add, or name a file with --ssh-key")
	}
	return []ssh.AuthMethod{ssh.PublicKeys(signers...)}, done, nil
}

// CheckHost connects as far as the host key, checks it and hangs up.
func CheckHost(ctx context.Context, address string, k *KnownHosts, timeout time.Duration) error {
	errChecked := errors.New("checked")
	var failed error
	config := &ssh.ClientConfig{Timeout: cmp.Or(timeout, dialTimeout), HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
		if failed = k.Callback(host, remote, key); failed != nil {
			return failed
		}
		return errChecked
	}}
	if !k.Any {
		config.HostKeyAlgorithms = k.known(address)
	}
	c, err := dial(ctx, nil, address, config)
	switch {
	case failed != nil:
		return failed
	case errors.Is(err, errChecked) || err != nil && strings.Contains(err.Error(), errChecked.Error()):
		return nil
	case err == nil:
		c.Close()
		return nil
	}
	return fmt.Errorf("SSH to %s: %w", address, err)
}

// Pipe runs a command there and returns a connection to its input and output.
func Pipe(c *ssh.Client, command string) (net.Conn, error) {
	s, err := c.NewSession()
	if err != nil {
		return nil, err
	}
	p := &pipe{session: s, conn: c}
	if p.in, err = s.StdinPipe(); err == nil {
		p.out, err = s.StdoutPipe()
	}
	s.Stderr = &p.stderr
	if err == nil {
		err = s.Start(command)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return p, nil
}

// pipe is a connection over a command's input and output. It has no deadlines:
// whoever uses it closes it.
type pipe struct {
	session *ssh.Session
	conn    ssh.ConnMetadata
	in      io.WriteCloser
	out     io.Reader
	stderr  bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if n == 0 && err == io.EOF {
		if werr := p.session.Wait(); werr != nil && p.stderr.Len() > 0 {
			return 0, fmt.Errorf("%s", strings.TrimSpace(p.stderr.String()))
		}
	}
	return n, err
}

func (p *pipe) Write(b []byte) (int, error)      { return p.in.Write(b) }
func (p *pipe) Close() error                     { return p.session.Close() }
func (p *pipe) LocalAddr() net.Addr              { return p.conn.LocalAddr() }
func (p *pipe) RemoteAddr() net.Addr             { return p.conn.RemoteAddr() }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }
