// Package lumberjack has what both ends of the Lumberjack protocol need here:
// mutual TLS by one shared certificate, and limits on what a peer may claim.
package lumberjack

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// TLS returns the configuration of a server and of its clients. Both present
// the certificate in the PEM files and accept no other, so whoever was given
// the key is in, and nobody else.
func TLS(certFile, keyFile string) (server, client *tls.Config, err error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate that forwarders and the collector share: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	if len(leaf.DNSNames) == 0 {
		return nil, nil, fmt.Errorf("%s: %w", certFile, errors.New("the certificate names no host"))
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	server = &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}
	client = &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool,
		ServerName: leaf.DNSNames[0], MinVersion: tls.VersionTLS12,
	}
	return server, client, nil
}
