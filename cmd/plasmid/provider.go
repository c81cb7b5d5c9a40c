package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"

	"plasmid/image"
	"plasmid/provision"
	"plasmid/provision/config"
	"plasmid/provision/join"
	"plasmid/provision/local"
)

// provider makes the provider that the cluster file asks for.
func (g *globals) provider(c *config.Cluster, a *join.Access) (provision.Provider, error) {
	if c.Provider.OpenStack != nil {
		return nil, errors.New("the OpenStack provider is not in this version; use provider \"local\" {}")
	}
	keys := c.SSHKeys
	if a != nil {
		keys = append([]string{a.AuthorizedKey()}, keys...)
	}
	return local.New(local.Config{
		Cluster: c.Name, State: g.StateDir(), CIDR: c.Provider.Local.CIDR, SSHKeys: keys,
		Tree: func(id string) (string, error) {
			i, err := image.ByID(g.StateDir(), id)
			if err != nil {
				return "", err
			}
			return i.Tree(), nil
		},
	})
}

func (g *globals) localProvider() (*local.Provider, error) {
	c, err := g.Config()
	if err != nil {
		return nil, err
	}
	p, err := g.provider(c, nil)
	if err != nil {
		return nil, err
	}
	l, ok := p.(*local.Provider)
	if !ok {
		return nil, fmt.Errorf("cluster %q does not run on local machines", c.Name)
	}
	return l, nil
}

// accessDir is where the operator's keys of a cluster are.
func (g *globals) accessDir(cluster string) string {
	return filepath.Join(g.StateDir(), "clusters", cluster, "access")
}

// passExitCode makes this program exit as the one it ran.
func passExitCode(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitCode(exit.ExitCode())
	}
	return err
}
