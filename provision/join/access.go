// Package join makes machines members of a cluster: it keeps the operator's
// keys, signs those of the machines, and adds to and removes from etcd.
package join

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Access is the operator's side of a cluster: a directory with the cluster's
// authority, a client certificate and an SSH key. Whoever has it owns the
// cluster.
type Access struct {
	Dir string
	// Token names the cluster for etcd; random.
	Token string

	ca      *x509.Certificate
	caKey   *ecdsa.PrivateKey
	admin   tls.Certificate
	sshKey  ssh.Signer
	sshLine string
	tunnels tunnels
}

// ErrNoAccess means that the operator has no keys of the cluster.
var ErrNoAccess = errors.New("there is no such cluster here")

// LoadAccess reads the directory. ErrNoAccess if there is none.
func LoadAccess(dir string) (*Access, error) {
	if _, err := os.Stat(filepath.Join(dir, "token")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", filepath.Base(filepath.Dir(dir)), ErrNoAccess)
	}
	a := &Access{Dir: dir}
	token, err := os.ReadFile(a.file("token"))
	if err != nil {
		return nil, err
	}
	a.Token = strings.TrimSpace(string(token))
	pair, err := tls.LoadX509KeyPair(a.file("ca.crt"), a.file("ca.key"))
	if err != nil {
		return nil, err
	}
	a.ca = pair.Leaf
	a.caKey = pair.PrivateKey.(*ecdsa.PrivateKey)
	if a.admin, err = tls.LoadX509KeyPair(a.file("admin.crt"), a.file("admin.key")); err != nil {
		return nil, err
	}
	key, err := os.ReadFile(a.file("ssh_ed25519"))
	if err != nil {
		return nil, err
	}
	if a.sshKey, err = ssh.ParsePrivateKey(key); err != nil {
		return nil, err
	}
	line, err := os.ReadFile(a.file("ssh_ed25519.pub"))
	a.sshLine = strings.TrimSpace(string(line))
	return a, err
}

// CreateAccess loads the directory, or makes it with new keys.
func CreateAccess(dir, cluster string) (*Access, error) {
	a, err := LoadAccess(dir)
	if !errors.Is(err, ErrNoAccess) {
		return a, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	a = &Access{Dir: dir}
	if err := a.makeAuthority(cluster); err != nil {
		return nil, err
	}
	if err := a.makeSSHKey(cluster); err != nil {
		return nil, err
	}
	// Last: with the token the directory counts as whole.
	var token [16]byte
	rand.Read(token[:])
	if err := a.write("token", []byte(hex.EncodeToString(token[:])+"\n")); err != nil {
		return nil, err
	}
	return LoadAccess(dir)
}

func (a *Access) file(name string) string { return filepath.Join(a.Dir, name) }

// write writes a file that only its owner may read, whole or not at all.
func (a *Access) write(name string, data []byte) error {
	tmp := a.file("." + name + ".new")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, a.file(name))
}

func (a *Access) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return a.write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (a *Access) makeAuthority(cluster string) (err error) {
	if a.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	cert, err := selfSigned(cluster, a.caKey)
	if err != nil {
		return err
	}
	if a.ca, err = x509.ParseCertificate(cert); err != nil {
		return err
	}
	adminKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	admin, err := a.sign(&adminKey.PublicKey, Identity{Name: "root", Role: RoleAdmin})
	if err != nil {
		return err
	}
	return errors.Join(
		a.writeKey("ca.key", a.caKey),
		a.write("ca.crt", certPEM(cert)),
		a.writeKey("admin.key", adminKey),
		a.write("admin.crt", admin),
	)
}

func (a *Access) makeSSHKey(cluster string) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "plasmid "+cluster)
	if err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " plasmid-" + cluster + "\n"
	return errors.Join(a.write("ssh_ed25519", pem.EncodeToMemory(block)), a.write("ssh_ed25519.pub", []byte(line)))
}

// AuthorizedKey is the line by which the operator may log in to machines.
func (a *Access) AuthorizedKey() string { return a.sshLine }

// ClientTLS is for talking to the cluster's API and to etcd as the operator.
func (a *Access) ClientTLS() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.ca)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{a.admin}, MinVersion: tls.VersionTLS12}
}

// Member is a machine that was joined, as the operator's side remembers it.
type Member struct {
	Name      string `json:"name"`
	MachineID string `json:"machineID"`
	Address   string `json:"address"`
	Etcd      bool   `json:"etcd"`
	Initial   bool   `json:"initial,omitempty"` // one of the etcd members that started the cluster
	Joined    bool   `json:"joined"`            // false: being joined
	Spec      string `json:"spec"`
}

// Members reads the list of members.
func (a *Access) Members() (map[string]Member, error) {
	data, err := os.ReadFile(a.file("members.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Member{}, nil
	}
	if err != nil {
		return nil, err
	}
	m := map[string]Member{}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", a.file("members.json"), err)
	}
	return m, nil
}

func (a *Access) saveMembers(m map[string]Member) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return a.write("members.json", append(data, '\n'))
}
