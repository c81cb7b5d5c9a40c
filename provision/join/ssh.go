package join

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"plasmid/internal/remote"
)

// LoginUser is the user that operators log in as.
const LoginUser = "core"

// connect logs in as soon as the machine lets it, until ctx ends. Only the
// pinned host key is taken. dial is the way there, nil for a direct one.
func (a *Access) connect(ctx context.Context, name, addr string, pinned ssh.PublicKey, dial remote.Dialer) (*remote.Conn, error) {
	return remote.Connect(ctx, remote.Target{Name: name, Address: addr, User: LoginUser, Key: a.sshKey, HostKey: pinned, Dial: dial})
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
