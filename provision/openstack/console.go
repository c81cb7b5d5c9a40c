package openstack

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"golang.org/x/crypto/ssh"
)

const (
	// hostKeyTimeout is how long cloud-init in a machine may take to show its
	// SSH host key: without KVM a boot takes minutes.
	hostKeyTimeout = 15 * time.Minute
	consoleEvery   = 3 * time.Second
)

// HostKey reads the SSH host key that cloud-init writes to the console, which
// comes to us by Nova's API and not over the network that SSH goes over.
func (p *Provider) HostKey(ctx context.Context, name string) (ssh.PublicKey, error) {
	list, err := p.c.servers(ctx, p.cluster.Name, name)
	if err != nil {
		return nil, err
	}
	sv := first(list, name, serverObject)
	if sv == nil {
		return nil, fmt.Errorf("there is no server %s in cluster %s", name, p.cluster.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, hostKeyTimeout)
	defer cancel()
	last := ""
	for {
		out, err := servers.ShowConsoleOutput(ctx, p.c.compute, sv.ID, servers.ShowConsoleOutputOpts{}).Extract()
		switch {
		case err == nil:
			if key := consoleKey(out); key != nil {
				return key, nil
			}
			last = lastWords(out)
		case hasCode(err, 404) && ctx.Err() == nil:
			last = "" // there is no console before the server has begun to boot
		case ctx.Err() == nil:
			return nil, fmt.Errorf("reading the console of server %s: %w", name, said(err))
		}
		if err := sleep(ctx, consoleEvery); err != nil {
			return nil, fmt.Errorf("machine %s has shown no SSH host key on its console: %w; the console's last words:\n%s", name, err, last)
		}
	}
}

// consoleKey finds the key between cloud-init's markers, of its module
// keys_to_console. Of several boots the last counts.
func consoleKey(console string) ssh.PublicKey {
	var key ssh.PublicKey
	between := false
	for line := range strings.Lines(console) {
		switch {
		case strings.Contains(line, "-----BEGIN SSH HOST KEY KEYS-----"):
			between = true
		case strings.Contains(line, "-----END SSH HOST KEY KEYS-----"):
			between = false
		case between:
			if i := strings.Index(line, "ssh-ed25519 "); i >= 0 {
				if k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(line[i:]))); err == nil {
					key = k
				}
			}
		}
	}
	return key
}

// lastWords are the last lines of a console, for messages.
func lastWords(console string) string {
	lines := strings.Split(strings.TrimSpace(console), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-10):], "\n  ")
}
