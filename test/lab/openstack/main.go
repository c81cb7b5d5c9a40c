// Command openstack-lab runs a real OpenStack on this machine: Debian's
// packages, in a tree and in namespaces of their own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"plasmid/internal/progress"
	"plasmid/test/lab/openstack/conf"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "openstack-lab:", err)
		os.Exit(1)
	}
}

// options are those of all commands.
type options struct{ dir, name string }

func (o options) site() (site, error) {
	if os.Geteuid() != 0 {
		return site{}, errors.New("it makes namespaces and mounts; run it as root")
	}
	return newSite(o.dir, o.name)
}

func root() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "openstack-lab",
		Short: "A real OpenStack on one machine",
		Long: `A real OpenStack on one machine, from Debian's packages, in a tree and in
namespaces of its own. Nothing of it is seen or reached from the host but
through "openstack-lab exec", and nothing is left after "openstack-lab down".`,
		Example: `  openstack-lab up
  openstack-lab exec -- plasmid plan
  openstack-lab exec --inside -- openstack server list
  openstack-lab down`,
		SilenceUsage: true, SilenceErrors: true,
	}
	dir := os.Getenv("PLASMID_LAB_DIR")
	if dir == "" {
		dir = defaultDir
	}
	c.PersistentFlags().StringVar(&o.dir, "dir", dir, "directory of the cache and the labs (or PLASMID_LAB_DIR)")
	c.PersistentFlags().StringVar(&o.name, "name", "lab", "name of the lab; several can be up at once")
	c.AddCommand(upCommand(&o), downCommand(&o), statusCommand(&o), execCommand(&o), envCommand(&o), imageCommand(&o), stockCommand(&o), mirrorCommand(&o), inside1())
	return c
}

func upCommand(o *options) *cobra.Command {
	var tier string
	var emulate bool
	c := &cobra.Command{
		Use:   "up",
		Short: "bring the lab up, unless it is",
		Long: `Brings the lab up and waits until every service answers. The first time it
makes a tree of packages and fills the databases, which is kept for later.
A lab that comes up is always as good as new.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := conf.ParseTier(tier)
			if err != nil {
				return err
			}
			s, err := o.site()
			if err != nil {
				return err
			}
			if err := s.up(c.Context(), newLog(), t, !emulate && hasKVM()); err != nil {
				return err
			}
			fmt.Print(s.environ())
			return nil
		},
	}
	c.Flags().StringVar(&tier, "tier", "fake", "what servers are: fake (nothing), lxc (containers) or qemu (virtual machines)")
	c.Flags().BoolVar(&emulate, "emulate", false, "in tier qemu, do without /dev/kvm: it may be there and not work")
	return c
}

func newLog() *progress.Log { return progress.New(os.Stderr, term.IsTerminal(2)) }

func downCommand(o *options) *cobra.Command {
	var purge bool
	c := &cobra.Command{
		Use:   "down",
		Short: "take the lab down and check that nothing is left",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.site()
			if err != nil {
				return err
			}
			log := newLog()
			if err := s.down(c.Context(), log); err != nil {
				return err
			}
			if purge {
				return s.purge(log)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&purge, "purge", false, "remove the cache, too")
	return c
}

// purge removes the cache.
func (s site) purge(log *progress.Log) error {
	held, err := lock(filepath.Join(s.dir, "cache.lock"), "the cache")
	if err != nil {
		return err
	}
	defer held.Close()
	entries, err := os.ReadDir(s.cache())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if s.inUse(e.Name()) {
			return fmt.Errorf("another lab in %s uses the cache; take it down first", s.dir)
		}
	}
	if err := os.RemoveAll(s.cache()); err != nil {
		return err
	}
	log.Printf("the cache is removed")
	return nil
}

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "say what runs; fails unless all does",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := o.site()
			if err != nil {
				return err
			}
			pid := s.process1()
			if pid == 0 {
				return errNotUp
			}
			st, err := s.status()
			if err != nil {
				return err
			}
			fmt.Printf("tier %s, process 1 is %d, logs in %s\n", st.Tier, pid, s.state())
			for _, service := range services(conf.Tier(st.Tier)) {
				state := st.Services[service.name]
				if state == "" {
					state = "not ready"
				}
				fmt.Printf("  %-26s %s\n", service.name, state)
			}
			if bad := st.ended(); len(bad) > 0 {
				return errors.New(strings.Join(bad, ", "))
			}
			if !st.Ready {
				return errors.New("the lab is coming up")
			}
			return nil
		},
	}
}

var errNotUp = errors.New("the lab is not up; run: openstack-lab up (or make openstack-lab)")

// environ is what a program needs to find the lab's cloud.
func (s site) environ() string {
	return fmt.Sprintf("OS_CLIENT_CONFIG_FILE=%s\nOS_CLOUD=lab\n", s.clouds())
}

func envCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: "print the variables that programs in the lab's network find the cloud by",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := o.site()
			if err != nil {
				return err
			}
			if s.process1() == 0 {
				return errNotUp
			}
			fmt.Print(s.environ())
			return nil
		},
	}
}

func execCommand(o *options) *cobra.Command {
	var inTree bool
	var cloud string
	c := &cobra.Command{
		Use:   "exec -- COMMAND [ARG...]",
		Short: "run a command in the lab's network",
		Long: `Runs a command in the lab's network, where the APIs, floating addresses and
provider network are, with the host's files, and with OS_CLIENT_CONFIG_FILE
and OS_CLOUD set. With --inside it has the lab's files, and its processes, too.`,
		Example: `  openstack-lab exec -- curl -s http://` + conf.IP + `:5000/v3
  openstack-lab exec --inside --cloud lab-admin -- openstack hypervisor list
  openstack-lab exec --inside -- virsh -c lxc:/// list`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := o.site()
			if err != nil {
				return err
			}
			pid := s.process1()
			if pid == 0 {
				return errNotUp
			}
			nsenter, err := exec.LookPath("nsenter")
			if err != nil {
				return errors.New("nsenter is not installed; run: make deps")
			}
			argv := []string{fmt.Sprintf("--target=%d", pid), "--net", "--"}
			env := append(os.Environ(), "OS_CLIENT_CONFIG_FILE="+s.clouds())
			if inTree {
				argv, env = insideArgs(pid), insideEnvironment()
			}
			argv = append(append([]string{"nsenter"}, argv...), args...)
			return syscall.Exec(nsenter, argv, append(env, "OS_CLOUD="+cloud))
		},
	}
	c.Flags().BoolVar(&inTree, "inside", false, "with the files and processes of the lab")
	c.Flags().StringVar(&cloud, "cloud", "lab", "lab, or lab-admin for the administrator")
	c.Flags().SetInterspersed(false)
	return c
}

// insideArgs are those of nsenter before a command that has the lab's files
// and processes.
func insideArgs(pid int) []string {
	return []string{fmt.Sprintf("--target=%d", pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--"}
}

func insideEnvironment() []string {
	return append([]string{"HOME=/root", "OS_CLIENT_CONFIG_FILE=/etc/openstack/clouds.yaml"}, environment...)
}

func inside1() *cobra.Command {
	return &cobra.Command{
		Use: insideCommand + " enter|services", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if args[0] == "enter" {
				return enter()
			}
			return inside()
		},
	}
}
