package join

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Role is what a certificate entitles to; it is the certificate's
// organization.
type Role string

const (
	RoleAdmin Role = "admin" // the operator
	RoleNode  Role = "node"  // a machine
	RoleApp   Role = "app"   // an app: its own keys in etcd, nothing else
)

// Identity is what goes into a certificate. Name is the common name, which is
// also the user in etcd.
type Identity struct {
	Name string
	Role Role
	DNS  []string
	IPs  []string
	// Server says that others connect to it.
	Server bool
}

// Lifetimes of certificates.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	// clockSkew is how far a machine's clock may be behind.
	clockSkew = 5 * time.Minute
)

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

func selfSigned(cluster string, key *ecdsa.PrivateKey) ([]byte, error) {
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Plasmid cluster " + cluster},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
}

// sign makes a certificate in PEM for a public key.
func (a *Access) sign(key crypto.PublicKey, id Identity) ([]byte, error) {
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: id.Name, Organization: []string{string(id.Role)}},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(certLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		DNSNames:     id.DNS,
	}
	if id.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, ip := range id.IPs {
		parsed := net.ParseIP(ip)
		if parsed == nil {
			return nil, fmt.Errorf("%q is no IP address", ip)
		}
		t.IPAddresses = append(t.IPAddresses, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.ca, key, a.caKey)
	if err != nil {
		return nil, err
	}
	return certPEM(der), nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// SignRequest signs the public key of a request. Nothing else in the request
// counts.
func (a *Access) SignRequest(request string, id Identity) (string, error) {
	block, _ := pem.Decode([]byte(request))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return "", errors.New("the machine sent no certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("the machine's certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return "", fmt.Errorf("the machine's certificate request: %w", err)
	}
	cert, err := a.sign(csr.PublicKey, id)
	return string(cert), err
}

// IssueApp makes a client certificate and its key for an app.
func (a *Access) IssueApp(app string) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if cert, err = a.sign(&k.PublicKey, Identity{Name: "app-" + app, Role: RoleApp}); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// CA is the authority's certificate in PEM.
func (a *Access) CA() []byte { return certPEM(a.ca.Raw) }
