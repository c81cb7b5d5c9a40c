//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"plasmid/provision/join"
	"plasmid/runtime/store"
)

// access is what the operator has of the cluster.
func (c *cluster) access() *join.Access {
	c.t.Helper()
	state := os.Getenv("PLASMID_STATE")
	if state == "" {
		state = "/var/lib/plasmid"
	}
	a, err := join.LoadAccess(filepath.Join(state, "clusters", c.name, "access"))
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// giveShortAccess gives an app a certificate for etcd that is as the cluster's
// own, but expires soon.
func (c *cluster) giveShortAccess(app string, life time.Duration) store.AppAccess {
	t := c.t
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a := c.access()
	ca, err := tls.LoadX509KeyPair(filepath.Join(a.Dir, "ca.crt"), filepath.Join(a.Dir, "ca.key"))
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "app-" + app, Organization: []string{string(join.RoleApp)}},
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	must(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	access := store.AppAccess{
		CA:   string(a.CA()),
		Cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		Key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
	s, err := a.OpenStore(t.Context())
	must(err)
	defer s.Close()
	must(s.PutAppAccess(t.Context(), app, access))
	return access
}
