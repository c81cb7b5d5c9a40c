// Package node is what a machine holds of its membership: its configuration,
// its keys and certificates, and the facts it learned at boot. The operator's
// side reaches it over SSH, as plasmidd csr and plasmidd configure.
package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"plasmid/runtime/reboot"
)

// Where things are on a node.
const (
	Dir        = "/etc/plasmid"
	ConfigFile = Dir + "/node.json"
	PKIDir     = Dir + "/pki"
	CAFile     = PKIDir + "/ca.crt"
	CertFile   = PKIDir + "/node.crt"
	KeyFile    = PKIDir + "/node.key"
	StateDir   = "/var/lib/plasmid"
	RunDir     = "/run/plasmid"
	Socket     = RunDir + "/plasmid.sock"

	etcdCertFile = PKIDir + "/etcd.crt"
	etcdKeyFile  = PKIDir + "/etcd.key"
	etcdEnvFile  = "/etc/default/etcd"

	// EtcdDataDir is where etcd keeps its member.
	EtcdDataDir = "/var/lib/etcd/default"
)

// Ports of a node.
const (
	APIPort   = 7480 // on the private address, mutual TLS
	ImagePort = 7481 // on loopback, plain: Docker pulls from it
	DNSPort   = 7482 // on loopback: systemd-resolved asks it for names of the zone plasmid
)

// Config is node.json.
type Config struct {
	Cluster       string            `json:"cluster"`
	Name          string            `json:"name"`
	Group         string            `json:"group"`
	PrivateIPv4   string            `json:"privateIPv4"`
	PublicIPv4    string            `json:"publicIPv4"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	EtcdEndpoints []string          `json:"etcdEndpoints"`
	LeaseSeconds  int               `json:"leaseSeconds"`
	Reboot        *Reboot           `json:"reboot,omitempty"` // nil: only when an operator says so
}

// Reboot says how the machine reboots by itself.
type Reboot struct {
	Group           string `json:"group"`
	Max             int    `json:"max"`
	Window          string `json:"window,omitempty"` // as reboot.ParseWindow reads it; empty: always
	LengthSeconds   int    `json:"lengthSeconds,omitempty"`
	DrainSeconds    int    `json:"drainSeconds"`
	PatienceSeconds int    `json:"patienceSeconds"`
}

// RebootPolicy is what node.json says of reboots.
func (c *Config) RebootPolicy() (reboot.Policy, error) {
	p := reboot.Default()
	r := c.Reboot
	if r == nil {
		return p, nil
	}
	p.Auto, p.Group, p.Max = true, r.Group, r.Max
	p.Drain, p.Patience = time.Duration(r.DrainSeconds)*time.Second, time.Duration(r.PatienceSeconds)*time.Second
	if err := reboot.CheckGroup(p.Group); err != nil {
		return p, err
	}
	if p.Max < 1 || p.Drain <= 0 || p.Patience <= 0 {
		return p, errors.New("reboot: max, drainSeconds and patienceSeconds must be at least 1")
	}
	if r.Window == "" {
		return p, nil
	}
	var err error
	p.Window, err = reboot.ParseWindow(r.Window, time.Duration(r.LengthSeconds)*time.Second)
	return p, err
}

// Lease is how long the machine may be silent.
func (c *Config) Lease() time.Duration { return time.Duration(c.LeaseSeconds) * time.Second }

// Load reads node.json.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w; this machine was not joined to a cluster: plasmid up does that", err)
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if c.Name == "" || c.PrivateIPv4 == "" || len(c.EtcdEndpoints) == 0 || c.LeaseSeconds < 1 {
		return nil, fmt.Errorf("%s is incomplete: name, privateIPv4, etcdEndpoints and leaseSeconds must be set", file)
	}
	if _, err := c.RebootPolicy(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &c, nil
}

// writeFile writes a file whole or not at all, and reports whether it changed.
func writeFile(name string, data []byte, mode os.FileMode, uid, gid int) (bool, error) {
	if old, err := os.ReadFile(name); err == nil && string(old) == string(data) {
		return false, nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := tmp.Chmod(mode); err != nil {
		return false, err
	}
	if err := tmp.Chown(uid, gid); err != nil {
		return false, err
	}
	if _, err := tmp.Write(data); err != nil {
		return false, err
	}
	if err := tmp.Sync(); err != nil {
		return false, err
	}
	return true, os.Rename(tmp.Name(), name)
}
