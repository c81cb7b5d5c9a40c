package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"

	"plasmid/internal/remote"
	"plasmid/provision/plan"
)

// gate is a machine that the operator reaches from outside, and through which
// all others are reached: by SSH, which is all that is open.
type gate struct {
	Name    string `json:"name"`
	Address string `json:"address"` // host:port of SSH
	HostKey string `json:"hostKey"` // authorized_keys format
}

const sshPort = "22"

// gateTimeout is for logging in to a gate, which is known to be up.
const gateTimeout = 10 * time.Second

// directTimeout is for reaching one machine on the same network: one that is
// lost holds nobody up.
const directTimeout = 3 * time.Second

// tunnels are the connections to gates, shared by all who go through them.
type tunnels struct {
	mu   sync.Mutex
	open *remote.Conn
}

// gates are those that the operator has logged in to before. None: machines are
// reached at their private addresses.
func (a *Access) gates() ([]gate, error) {
	data, err := os.ReadFile(a.file("gates.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var gs []gate
	if err := json.Unmarshal(data, &gs); err != nil {
		return nil, fmt.Errorf("%s: %w", a.file("gates.json"), err)
	}
	return gs, nil
}

// keepGates remembers a gate, or forgets those of a name.
func (a *Access) keepGates(name string, now *gate) error {
	gs, err := a.gates()
	if err != nil {
		return err
	}
	before := slices.Clone(gs)
	gs = slices.DeleteFunc(gs, func(g gate) bool { return g.Name == name })
	if now != nil {
		gs = append(gs, *now)
	}
	if slices.Equal(before, gs) {
		return nil
	}
	data, err := json.MarshalIndent(gs, "", "  ")
	if err != nil {
		return err
	}
	return a.write("gates.json", append(data, '\n'))
}

// DialContext connects to an address on the machines' own network: by way of a
// gate, if there is one.
func (a *Access) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	gs, err := a.gates()
	if err != nil {
		return nil, err
	}
	if len(gs) == 0 {
		d := net.Dialer{Timeout: directTimeout}
		return d.DialContext(ctx, network, address)
	}
	c, err := a.through(ctx, gs)
	if err != nil {
		return nil, err
	}
	conn, err := c.DialContext(ctx, network, address)
	if err == nil {
		return &tunnelled{Conn: conn}, nil
	}
	// The gate may be gone, or only what is behind it.
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) && ctx.Err() == nil {
		a.tunnels.mu.Lock()
		if a.tunnels.open == c {
			a.tunnels.open = nil
		}
		a.tunnels.mu.Unlock()
		c.Close()
	}
	return nil, fmt.Errorf("%s by way of %s: %w", address, c.Name, err)
}

// through returns a connection to a gate: the one that is open, or the first to
// let us in.
func (a *Access) through(ctx context.Context, gs []gate) (*remote.Conn, error) {
	a.tunnels.mu.Lock()
	defer a.tunnels.mu.Unlock()
	if a.tunnels.open != nil {
		return a.tunnels.open, nil
	}
	var errs []error
	for _, g := range gs {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(g.HostKey))
		if err != nil {
			return nil, fmt.Errorf("the host key of %s: %w", g.Name, err)
		}
		lctx, cancel := context.WithTimeout(ctx, gateTimeout)
		c, err := a.connect(lctx, g.Name, g.Address, key, nil)
		cancel()
		if err == nil {
			a.tunnels.open = c
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no machine with a public address lets the operator through: %w", errors.Join(errs...))
}

// etcdOptions make etcd's client go the same way.
func (a *Access) etcdOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return a.DialContext(ctx, "tcp", strings.TrimPrefix(address, "https://"))
	})}
}

// tunnelled gives a connection through SSH the deadlines that it lacks: when one
// passes, it is closed.
type tunnelled struct {
	net.Conn
	mu sync.Mutex
	t  *time.Timer
}

func (c *tunnelled) SetDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.t != nil {
		c.t.Stop()
		c.t = nil
	}
	if !at.IsZero() {
		c.t = time.AfterFunc(time.Until(at), func() { c.Conn.Close() })
	}
	return nil
}

func (c *tunnelled) SetReadDeadline(at time.Time) error { return c.SetDeadline(at) }

// SetWriteDeadline does nothing: writes to a gate that is gone end with it.
func (c *tunnelled) SetWriteDeadline(time.Time) error { return nil }

func (c *tunnelled) Close() error {
	c.SetDeadline(time.Time{})
	return c.Conn.Close()
}

// openGates sees to it that there is a way to machines without a public
// address: those that have one are logged in to first, as soon as one lets us.
func (j *Joiner) openGates(ctx context.Context) error {
	j.gating.Lock()
	defer j.gating.Unlock()
	gs, err := j.Access.gates()
	if err != nil || len(gs) > 0 {
		return err
	}
	_, machines, err := j.Machines.Observe(ctx)
	if err != nil {
		return err
	}
	for _, m := range machines {
		if m.PublicIPv4 != "" && m.Running && m.Complete {
			conn, err := j.logInFromOutside(ctx, m)
			if err != nil {
				return err
			}
			return conn.Close()
		}
	}
	return nil // the operator is on the machines' network, by a VPN say
}

// logInFromOutside connects to a machine at its public address, which makes it
// a gate.
func (j *Joiner) logInFromOutside(ctx context.Context, m plan.Observed) (*remote.Conn, error) {
	pinned, err := j.pin(ctx, m.Name, m.PublicIPv4)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(m.PublicIPv4, sshPort)
	conn, err := j.Access.connect(ctx, m.Name, address, pinned, nil)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pinned)))
	if err := j.Access.keepGates(m.Name, &gate{m.Name, address, line}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// pin learns a machine's host key and writes it down for ssh(1).
func (j *Joiner) pin(ctx context.Context, name, address string) (ssh.PublicKey, error) {
	pinned, err := j.Machines.HostKey(ctx, name)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return pinned, j.Access.writeKnownHosts(map[string]ssh.PublicKey{address: pinned})
}
