package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
)

// Requests are certificate requests in PEM. What counts in them is the public
// key; names and addresses are for the operator to decide.
type Requests struct {
	MachineID string `json:"machineID"`
	Node      string `json:"node"`
	Etcd      string `json:"etcd"`
	// The certificates of an earlier join, if any.
	NodeCert string `json:"nodeCert,omitempty"`
	EtcdCert string `json:"etcdCert,omitempty"`
	// EtcdData says that etcd has a member's data here.
	EtcdData bool `json:"etcdData"`
}

// CSR makes the machine's keys, unless it has them, and returns requests for
// their certificates. The keys never leave the machine.
func CSR() (Requests, error) {
	id, err := MachineID()
	if err != nil {
		return Requests{}, err
	}
	if err := os.MkdirAll(PKIDir, 0o755); err != nil {
		return Requests{}, err
	}
	gid, err := etcdGroup()
	if err != nil {
		return Requests{}, err
	}
	r := Requests{MachineID: id}
	if r.Node, err = request(KeyFile, 0o600, 0); err != nil {
		return Requests{}, err
	}
	if r.Etcd, err = request(etcdKeyFile, 0o640, gid); err != nil {
		return Requests{}, err
	}
	if r.NodeCert, err = readIfThere(CertFile); err != nil {
		return Requests{}, err
	}
	if r.EtcdCert, err = readIfThere(etcdCertFile); err != nil {
		return Requests{}, err
	}
	_, err = os.Stat(EtcdDataDir + "/member")
	r.EtcdData = err == nil
	return r, nil
}

func readIfThere(file string) (string, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return string(data), err
}

func etcdGroup() (int, error) {
	g, err := user.LookupGroup("etcd")
	if err != nil {
		return 0, fmt.Errorf("%w; the image lacks Debian's etcd-server", err)
	}
	return strconv.Atoi(g.Gid)
}

func request(file string, mode os.FileMode, gid int) (string, error) {
	key, err := loadOrMakeKey(file, mode, gid)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

func loadOrMakeKey(file string, mode os.FileMode, gid int) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(file)
	if err == nil {
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("%s holds no key in PEM", file)
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		ec, ok := key.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("%s is no ECDSA key", file)
		}
		return ec, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	_, err = writeFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), mode, 0, gid)
	return key, err
}
