package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"plasmid/internal/remote"
	"plasmid/runtime/api"
	"plasmid/runtime/client"
)

// sshFlags are those of plasmid ssh.
type sshFlags struct {
	machine, unit string
	forwardAgent  bool
	port          int
}

func newSSHCommand(g *globals) *cobra.Command {
	var f sshFlags
	cmd := &cobra.Command{
		Use:   "ssh [MACHINE | UNIT] [COMMAND…]",
		Short: "Log in to a machine, or to the machine of a unit",
		Long: `Runs ssh(1) with the operator's key, those of --ssh-key and those in ssh-agent. A
machine is named by its name, its ID or the beginning of its ID. The host key must
be one of the cluster's, or in --known-hosts-file; of an unknown one it is asked.
A command is run on every machine that has the unit, unless --machine picks one.
The exit code is the command's.`,
		Example: "  plasmid ssh demo-core-1\n  plasmid ssh --unit nginx.service sudo docker ps\n  plasmid ssh --machine demo-core-2 --unit agent.service uptime",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			machine, unit := f.machine, f.unit
			if machine == "" && unit == "" {
				if len(args) == 0 {
					return errors.New("name a machine or a unit; plasmid list-machines shows the machines")
				}
				machine, args = args[0], args[1:]
			}
			targets, err := sshTargets(cmd, c, machine, unit)
			if err != nil {
				return err
			}
			if len(targets) > 1 && len(args) == 0 {
				var names []string
				for _, t := range targets {
					names = append(names, t.name)
				}
				return fmt.Errorf("the unit is on %d machines; name one with --machine, or a command to run on all: %s", len(targets), strings.Join(names, ", "))
			}
			var failed error
			for _, t := range targets {
				if len(targets) > 1 {
					fmt.Fprintf(cmd.ErrOrStderr(), "== %s ==\n", t.name)
				}
				if err := g.runSSH(cmd, &f, t, args); failed == nil {
					failed = err
				}
			}
			return failed
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&f.machine, "machine", "", "the machine")
	cmd.Flags().StringVar(&f.unit, "unit", "", "the unit")
	cmd.Flags().BoolVarP(&f.forwardAgent, "forward-agent", "A", false, "let the machine use the keys in ssh-agent")
	cmd.Flags().IntVar(&f.port, "ssh-port", 22, "port of the SSH server")
	return cmd
}

// sshTarget is a machine to log in to.
type sshTarget struct{ name, address string }

// sshTargets finds where to log in: to a machine, to all that have a unit, or
// to the one of them that is named. A name alone may be either.
func sshTargets(cmd *cobra.Command, c *client.Client, machine, unit string) ([]sshTarget, error) {
	ms, err := c.Machines(cmd.Context())
	if err != nil {
		return nil, err
	}
	m, found, err := pickMachine(ms, machine)
	if err != nil {
		return nil, err
	}
	switch {
	case unit == "" && found:
		return []sshTarget{{m.Name, m.PrivateIPv4}}, nil
	case unit != "" && machine != "" && !found:
		return nil, fmt.Errorf("there is no machine %q; plasmid list-machines shows those there are", machine)
	case unit == "":
		unit = machine
	}
	u, err := theUnit(cmd, c, unit)
	if err != nil {
		if unit == machine {
			return nil, fmt.Errorf("%q is neither a machine nor a unit: %w", unit, err)
		}
		return nil, err
	}
	var targets []sshTarget
	for _, r := range u.On {
		if !found || r.Machine == m.ID {
			targets = append(targets, sshTarget{r.Name, r.Address})
		}
	}
	switch {
	case len(targets) > 0:
		return targets, nil
	case found:
		return nil, fmt.Errorf("unit %s is not on machine %s", u.Name, m.Name)
	}
	return nil, fmt.Errorf("unit %s is on no machine", u.Name)
}

// pickMachine finds a machine by its name, its ID or four digits of it at
// least.
func pickMachine(ms []api.Machine, name string) (m api.Machine, found bool, err error) {
	if name == "" {
		return m, false, nil
	}
	for _, c := range ms {
		if c.Name == name || c.ID == name {
			return c, true, nil
		}
		if len(name) >= 4 && strings.HasPrefix(c.ID, name) {
			if found {
				return m, false, fmt.Errorf("the IDs of several machines begin with %q; give more of it", name)
			}
			m, found = c, true
		}
	}
	return m, found, nil
}

func (g *globals) runSSH(cmd *cobra.Command, f *sshFlags, t sshTarget, args []string) error {
	hosts := g.knownHosts()
	addr := net.JoinHostPort(t.address, strconv.Itoa(f.port))
	way := ""
	if a, err := g.access(); err == nil && g.Tunnel == "" {
		if t.address, way, err = a.Way(t.name, t.address); err != nil {
			return err
		}
		addr = net.JoinHostPort(t.address, strconv.Itoa(f.port))
	}
	if g.Tunnel == "" && way == "" {
		// Asked here, so that it is the same question as for a tunnel and
		// can be answered by a program. Behind a tunnel ssh(1) asks.
		if err := remote.CheckHost(cmd.Context(), addr, hosts, g.sshTimeout()); err != nil {
			return err
		}
	}
	line := append(g.sshOptions(hosts), "-p", strconv.Itoa(f.port))
	if g.Tunnel != "" {
		host, port, err := net.SplitHostPort(withPort(g.Tunnel, 22))
		if err != nil {
			return err
		}
		proxy := append([]string{"ssh"}, g.sshOptions(hosts)...)
		proxy = append(proxy, "-p", port, "-W", "'[%h]:%p'", host)
		line = append(line, "-o", "ProxyCommand="+strings.Join(proxy, " "))
	}
	if way != "" {
		line = append(line, "-o", "ProxyCommand="+way)
	}
	if f.forwardAgent {
		line = append(line, "-A")
	}
	line = append(line, t.address)
	if len(args) > 0 {
		line = append(append(line, "--"), args...)
	}
	c := exec.CommandContext(cmd.Context(), "ssh", line...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
	return passExitCode(c.Run())
}

// sshOptions are what ssh(1) has to know to do as the flags say.
func (g *globals) sshOptions(hosts *remote.KnownHosts) []string {
	file, strict := hosts.File, "yes"
	switch {
	case hosts.Any:
		file, strict = "/dev/null", "no"
	case g.Tunnel != "":
		strict = "ask"
	}
	line := []string{"-o", "UserKnownHostsFile=" + file, "-o", "StrictHostKeyChecking=" + strict, "-o", "LogLevel=ERROR",
		"-o", "ConnectTimeout=" + strconv.Itoa(max(1, int(g.SSHTimeout))), "-l", g.SSHUser}
	for _, k := range g.sshKeys() {
		line = append(line, "-i", k)
	}
	return line
}
