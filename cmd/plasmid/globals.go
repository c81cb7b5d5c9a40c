package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"plasmid/internal/progress"
	"plasmid/provision/config"
	"plasmid/provision/join"
)

const defaultFile = "cluster.hcl"

// globals are the flags that every command has.
type globals struct {
	File   string   // the cluster file
	Vars   []string // name=value
	Output string   // text or json
	Yes    bool

	Endpoint string // of the API; empty: find it

	CAFile, CertFile, KeyFile string // instead of the operator's own

	Tunnel     string // host[:port] to reach the API through, by SSH
	SSHUser    string
	SSHKeys    []string
	SSHTimeout float64 // seconds
	KnownHosts string
	StrictHost bool

	envErr error // a flag's environment variable that can't be read
}

// fromEnv is a flag's value from the environment: PLASMID_X_Y for --x-y, or
// FLEETCTL_X_Y as fleetctl had it.
func fromEnv(flag, otherwise string) string {
	name := strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	return cmp.Or(os.Getenv("PLASMID_"+name), os.Getenv("FLEETCTL_"+name), otherwise)
}

func (g *globals) register(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&g.File, "file", fromEnv("file", defaultFile), "the cluster file")
	f.StringArrayVar(&g.Vars, "var", nil, "set a variable of the cluster file, `name=value`")
	f.StringVarP(&g.Output, "output", "o", "text", "`format` of the output: text or json")
	f.StringVar(&g.Endpoint, "endpoint", fromEnv("endpoint", ""), "`address` of the API: unix:///… or https://…")
	f.StringVar(&g.CAFile, "ca-file", fromEnv("ca-file", ""), "the cluster's authority, with --cert-file and --key-file")
	f.StringVar(&g.CertFile, "cert-file", fromEnv("cert-file", ""), "client certificate for the API")
	f.StringVar(&g.KeyFile, "key-file", fromEnv("key-file", ""), "its key")
	f.StringVar(&g.Tunnel, "tunnel", fromEnv("tunnel", ""), "`host[:port]` of a machine to reach the cluster through, by SSH")
	f.StringVar(&g.SSHUser, "ssh-username", fromEnv("ssh-username", join.LoginUser), "`user` to log in as")
	f.StringArrayVar(&g.SSHKeys, "ssh-key", nil, "private key `file` for SSH, beside those in ssh-agent")
	f.Float64Var(&g.SSHTimeout, "ssh-timeout", 10, "`seconds` to wait for an SSH connection")
	f.StringVar(&g.KnownHosts, "known-hosts-file", fromEnv("known-hosts-file", ""), "SSH host keys; the cluster's own when left out")
	f.BoolVar(&g.StrictHost, "strict-host-key-checking", true, "check SSH host keys")
	for _, name := range []string{"ssh-timeout", "strict-host-key-checking"} {
		if v := fromEnv(name, ""); v != "" {
			g.envErr = errors.Join(g.envErr, f.Set(name, v))
			f.Lookup(name).Changed = false
		}
	}
	f.BoolVarP(&g.Yes, "yes", "y", false, "do not ask")
}

// StateDir is where the operator's side keeps images, clusters and access.
func (g *globals) StateDir() string {
	if d := os.Getenv("PLASMID_STATE"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/plasmid"
	}
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "plasmid")
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".local/state/plasmid")
}

// Config reads the cluster file. What is wrong with it is shown here, with the
// lines it points at.
func (g *globals) Config() (*config.Cluster, error) {
	c, err := config.LoadDefault(g.File, g.Vars)
	var bad *config.Error
	if errors.As(err, &bad) {
		width, _, sizeErr := term.GetSize(int(os.Stderr.Fd()))
		if sizeErr != nil {
			width = 0
		}
		if err := bad.Print(os.Stderr, uint(width), colored(os.Stderr)); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s has errors; nothing was changed", g.File)
	}
	return c, err
}

func colored(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// Progress writes to stderr, so that stdout holds data only.
func (g *globals) Progress() *progress.Log {
	return progress.New(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb")
}

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
