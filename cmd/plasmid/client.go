package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"plasmid/provision/config"
	"plasmid/provision/join"
	"plasmid/runtime/client"
	"plasmid/runtime/node"
)

// Client returns a client of the cluster: at --endpoint, else by this
// machine's own socket if it is a node, else with the operator's certificate.
func (g *globals) Client() (*client.Client, error) {
	if g.Endpoint != "" {
		c := client.Config{Endpoints: []string{g.Endpoint}}
		if a, err := g.access(); err == nil {
			c.TLS = a.ClientTLS()
		}
		return client.New(c)
	}
	if _, err := os.Stat(node.Socket); err == nil {
		return client.New(client.Config{Endpoints: []string{"unix://" + node.Socket}})
	}
	a, err := g.access()
	if err != nil {
		return nil, err
	}
	hosts, err := a.Endpoints()
	if err != nil {
		return nil, err
	}
	if len(hosts) == 0 {
		return nil, errors.New("no machine has joined the cluster yet; run: plasmid up")
	}
	var endpoints []string
	for _, h := range hosts {
		endpoints = append(endpoints, "https://"+h)
	}
	return client.New(client.Config{Endpoints: endpoints, TLS: a.ClientTLS()})
}

// access finds the operator's keys: of the cluster in the cluster file, or,
// where there is no such file, of the only cluster there is.
func (g *globals) access() (*join.Access, error) {
	name, err := g.clusterName()
	if err != nil {
		return nil, err
	}
	a, err := join.LoadAccess(g.accessDir(name))
	if errors.Is(err, join.ErrNoAccess) {
		return nil, fmt.Errorf("cluster %q is not up, or not from here; run: plasmid up", name)
	}
	return a, err
}

func (g *globals) clusterName() (string, error) {
	if _, err := os.Stat(g.File); err == nil {
		var c *config.Cluster
		if c, err = g.Config(); err != nil {
			return "", err
		}
		return c.Name, nil
	}
	dirs, err := filepath.Glob(filepath.Join(g.StateDir(), "clusters", "*", "access"))
	if err != nil {
		return "", err
	}
	switch len(dirs) {
	case 1:
		return filepath.Base(filepath.Dir(dirs[0])), nil
	case 0:
		return "", fmt.Errorf("there is no cluster file %s and no cluster; begin with a cluster file and: plasmid up", g.File)
	}
	return "", fmt.Errorf("there is no cluster file %s, and there are %d clusters; say which with --file", g.File, len(dirs))
}
