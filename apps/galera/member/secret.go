package member

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"
)

// Names of secrets.
const (
	SecretPassword = "password" // of the database user
	SecretTLS      = "tls"      // certificate and key in PEM, of all members
)

// ServerName is the name in the members' certificate.
const ServerName = "galera"

// certificateYears is longer than a cluster lives: the key is the cluster's
// own, trusted for nothing else.
const certificateYears = 20

// NewPassword makes a password of 130 random bits.
func NewPassword() (string, error) { return rand.Text(), nil }

// NewTLS makes the key that all members have and the certificate by which they
// and their clients know it. It signs itself: nobody else is to be trusted.
func NewTLS() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return "", err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: ServerName}, DNSNames: []string{ServerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(certificateYears, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// SplitTLS takes the secret apart.
func SplitTLS(secret string) (cert, key []byte) {
	block, rest := pem.Decode([]byte(secret))
	if block == nil {
		return nil, nil
	}
	return pem.EncodeToMemory(block), rest
}
