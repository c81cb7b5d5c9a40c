package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"plasmid/internal/remote"
	"plasmid/runtime/client"
	"plasmid/runtime/node"
)

// tunnelClient logs in to a machine and speaks with the API by its socket.
func (g *globals) tunnelClient() (*client.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), g.sshTimeout()+5*time.Second)
	defer cancel()
	conn, err := remote.Dial(ctx, g.login(g.Tunnel))
	if err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return client.New(client.Config{
		Endpoints: []string{"ssh://" + g.Tunnel},
		Dial: func(context.Context) (net.Conn, error) {
			return remote.Pipe(conn, "sudo -n plasmid fd-forward "+node.Socket)
		},
	})
}

func (g *globals) sshTimeout() time.Duration {
	return time.Duration(g.SSHTimeout * float64(time.Second))
}

// login is how to log in to a machine that is named by host or host:port.
func (g *globals) login(host string) remote.Login {
	return remote.Login{
		Address: withPort(host, 22), User: g.SSHUser, KeyFiles: g.sshKeys(), Agent: os.Getenv("SSH_AUTH_SOCK"),
		KnownHosts: g.knownHosts(), Timeout: g.sshTimeout(),
	}
}

func withPort(host string, port int) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), fmt.Sprint(port))
}

// sshKeys are the key files to log in with: those given, and the cluster's
// own.
func (g *globals) sshKeys() []string {
	keys := g.SSHKeys
	if a, err := g.access(); err == nil {
		keys = append(keys[:len(keys):len(keys)], filepath.Join(a.Dir, "ssh_ed25519"))
	}
	return keys
}

// knownHosts is the file given, or the cluster's own, which is complete, or
// the user's.
func (g *globals) knownHosts() *remote.KnownHosts {
	k := &remote.KnownHosts{File: g.KnownHosts, Ask: askYes, Any: !g.StrictHost}
	if k.File != "" {
		return k
	}
	if a, err := g.access(); err == nil {
		k.File = filepath.Join(a.Dir, "known_hosts")
	} else {
		k.File = filepath.Join(g.StateDir(), "known_hosts")
	}
	return k
}

// askYes asks on standard error and takes "yes" only.
func askYes(question string) bool {
	fmt.Fprint(os.Stderr, question)
	answer, _ := bufio.NewReader(oneByte{os.Stdin}).ReadString('\n')
	return strings.TrimSpace(answer) == "yes"
}

// oneByte reads no more than it is asked for, so that what follows an answer
// is left for the command.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// newForwardCommand is the far end of --tunnel.
func newForwardCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "fd-forward SOCKET",
		Short:  "Connect standard input and output to a socket",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := net.Dial("unix", args[0])
			if err != nil {
				return err
			}
			defer conn.Close()
			go func() {
				// The other end hangs up when its requests are done.
				_, _ = io.Copy(conn, cmd.InOrStdin())
				_ = conn.(*net.UnixConn).CloseWrite()
			}()
			_, err = io.Copy(cmd.OutOrStdout(), conn)
			return err
		},
	}
}
