package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"plasmid/image"
	"plasmid/provision"
	"plasmid/provision/config"
	"plasmid/provision/join"
	"plasmid/provision/local"
	"plasmid/provision/openstack"
)

// checkUser refuses what this user can't do, before anything is looked at.
func checkUser(c *config.Cluster) error {
	if c.Provider.Local != nil && os.Geteuid() != 0 {
		return errors.New("local machines need root: they have namespaces, mounts and cgroups of their own; use sudo")
	}
	return nil
}

// provider makes the provider that the cluster file asks for.
func (g *globals) provider(ctx context.Context, c *config.Cluster, a *join.Access) (provision.Provider, error) {
	if err := checkUser(c); err != nil {
		return nil, err
	}
	keys := c.SSHKeys
	if a != nil {
		keys = append([]string{a.AuthorizedKey()}, keys...)
	}
	if c.Provider.OpenStack != nil {
		cloud, err := openCloud(ctx, c)
		if err != nil {
			return nil, err
		}
		return openstack.New(cloud, c, keys), nil
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

// openCloud logs in to the cloud that the cluster file names.
func openCloud(ctx context.Context, c *config.Cluster) (*openstack.Client, error) {
	o := c.Provider.OpenStack
	if o == nil {
		return nil, fmt.Errorf("cluster %q does not run on OpenStack", c.Name)
	}
	creds, err := openstack.FindCredentials(o.Cloud, o.Region)
	if err != nil {
		return nil, err
	}
	return openstack.Connect(ctx, creds)
}

func (g *globals) localProvider(ctx context.Context) (*local.Provider, error) {
	c, err := g.Config()
	if err != nil {
		return nil, err
	}
	p, err := g.provider(ctx, c, nil)
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
