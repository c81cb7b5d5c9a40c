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
	"regexp"
	"slices"
	"time"

	"plasmid/runtime/node"
)

// Role is what a certificate entitles to; it is the certificate's
// organization.
type Role string

const (
	RoleAdmin Role = "admin" // the operator
	RoleNode  Role = "node"  // a machine
	RoleApp   Role = "app"   // an app: its own keys in etcd, its own units at the API

	// Of people and programs at the API, with no part in etcd.
	RoleOperator Role = "operator" // changes units
	RoleReader   Role = "reader"   // sees
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
	return a.signFor(key, id, certLife)
}

func (a *Access) signFor(key crypto.PublicKey, id Identity, life time.Duration) ([]byte, error) {
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: id.Name, Organization: []string{string(id.Role)}},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(life),
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
// counts. If current is a certificate for the same key and identity with a
// third of its life left, it is returned as it is.
func (a *Access) SignRequest(request, current string, id Identity) (string, error) {
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
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return "", errors.New("the machine's certificate request is not for an ECDSA P-256 key; delete " + node.PKIDir + " there and run plasmid up again")
	}
	if a.stillGood(current, key, id, time.Now()) {
		return current, nil
	}
	cert, err := a.sign(key, id)
	return string(cert), err
}

func (a *Access) stillGood(current string, key *ecdsa.PublicKey, id Identity, now time.Time) bool {
	block, _ := pem.Decode([]byte(current))
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	var ips []string
	for _, ip := range c.IPAddresses {
		ips = append(ips, ip.String())
	}
	return key.Equal(c.PublicKey) && c.CheckSignatureFrom(a.ca) == nil &&
		c.Subject.CommonName == id.Name && slices.Equal(c.Subject.Organization, []string{string(id.Role)}) &&
		slices.Equal(c.DNSNames, id.DNS) && slices.Equal(ips, id.IPs) &&
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) == id.Server &&
		!now.Before(c.NotBefore) && c.NotAfter.Sub(now) >= certLife/3
}

var appName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// checkApp keeps names out that would mean another app's keys in etcd.
func checkApp(app string) error {
	if !appName.MatchString(app) {
		return fmt.Errorf("%q cannot be an app's name: use lower-case letters, digits and inner dashes, at most 63", app)
	}
	return nil
}

// IssueApp makes a client certificate and its key for an app.
func (a *Access) IssueApp(app string) (cert, key []byte, err error) {
	if err := checkApp(app); err != nil {
		return nil, nil, err
	}
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

// IssueUser makes a client certificate and its key for a person or a program,
// to use the API with. In etcd the name means nobody.
func (a *Access) IssueUser(name string, role Role, life time.Duration) (cert, key []byte, err error) {
	if !appName.MatchString(name) {
		return nil, nil, fmt.Errorf("%q cannot be a user's name: use lower-case letters, digits and inner dashes, at most 63", name)
	}
	if role != RoleAdmin && role != RoleOperator && role != RoleReader {
		return nil, nil, fmt.Errorf("role %q is none of admin, operator, reader", role)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if cert, err = a.signFor(&k.PublicKey, Identity{Name: "user-" + name, Role: role}, life); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// AppCertGood reports whether an app's certificate is of this cluster and has a
// third of its life left.
func (a *Access) AppCertGood(app, cert string, now time.Time) bool {
	block, _ := pem.Decode([]byte(cert))
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return err == nil && c.CheckSignatureFrom(a.ca) == nil && c.Subject.CommonName == "app-"+app &&
		!now.Before(c.NotBefore) && c.NotAfter.Sub(now) >= certLife/3
}

// CA is the authority's certificate in PEM.
func (a *Access) CA() []byte { return certPEM(a.ca.Raw) }
