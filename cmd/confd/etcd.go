package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// defaultNode is where etcd is when nothing says otherwise.
const defaultNode = "127.0.0.1:2379"

// findNodes completes the addresses of etcd's nodes, with the help of DNS if
// that was asked for.
func (s *settings) findNodes(ctx context.Context) error {
	record := s.srvRecord
	if record == "" && s.srvDomain != "" {
		record = "_etcd._tcp." + s.srvDomain
	}
	if record != "" && len(s.nodes) == 0 {
		_, found, err := net.DefaultResolver.LookupSRV(ctx, "", "", record)
		if err != nil {
			return fmt.Errorf("looking for etcd's nodes: %w", err)
		}
		for _, srv := range found {
			s.nodes = append(s.nodes, net.JoinHostPort(strings.TrimSuffix(srv.Target, "."), strconv.Itoa(int(srv.Port))))
		}
	}
	if len(s.nodes) == 0 {
		s.nodes = list{defaultNode}
	}
	for i, n := range s.nodes {
		if !strings.Contains(n, "://") {
			s.nodes[i] = s.scheme + "://" + n
		}
	}
	return nil
}

func (s *settings) dial() (*clientv3.Client, error) {
	tls, err := s.tlsConfig()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            s.nodes,
		TLS:                  tls,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Username:             s.username,
		Password:             s.password,
		Logger:               zap.NewNop(), // errors come back from the calls
	})
	if err != nil {
		return nil, fmt.Errorf("etcd at %v: %w", s.nodes, err)
	}
	return client, nil
}

// tlsConfig is nil when nothing asks for TLS.
func (s *settings) tlsConfig() (*tls.Config, error) {
	if s.cert == "" && s.ca == "" && !s.insecure {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.insecure}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", s.ca)
		}
	}
	if s.cert != "" {
		// Read at every connection, so that a renewed certificate is used.
		if _, err := tls.LoadX509KeyPair(s.cert, s.key); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.cert, s.key)
			return &pair, err
		}
	}
	return c, nil
}
