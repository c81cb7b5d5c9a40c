package main

import (
	"crypto/tls"
	"crypto/x509"
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
	if g.Tunnel != "" {
		return g.tunnelClient()
	}
	own, err := g.ownTLS()
	if err != nil {
		return nil, err
	}
	if g.Endpoint != "" {
		c := client.Config{Endpoints: []string{g.Endpoint}, TLS: own}
		if own == nil {
			if a, err := g.access(); err == nil {
				c.TLS = a.ClientTLS()
			}
		}
		return client.New(c)
	}
	if own != nil {
		return nil, errors.New("a certificate was given and no machine to show it to; say which with --endpoint https://…:7480")
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
	return client.New(client.Config{Endpoints: endpoints, TLS: a.ClientTLS(), Via: a.DialContext})
}

// ownTLS is what --cert-file and its kin give, or nil.
func (g *globals) ownTLS() (*tls.Config, error) {
	if g.CAFile == "" && g.CertFile == "" && g.KeyFile == "" {
		return nil, nil
	}
	if g.CAFile == "" || g.CertFile == "" || g.KeyFile == "" {
		return nil, errors.New("--ca-file, --cert-file and --key-file go together; all three are in what plasmid access issue writes")
	}
	pair, err := tls.LoadX509KeyPair(g.CertFile, g.KeyFile)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(g.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", g.CAFile)
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
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
