package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Nodes are found by SRV records; nodes that are given win.
func TestFindNodes(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "_etcd._tcp.example.test." || q.Question[0].Name == "nodes.example.test." {
			rr, err := dns.NewRR(q.Question[0].Name + " SRV 0 1 2379 e1.example.test.")
			if err != nil {
				t.Error(err)
			}
			a.Answer = append(a.Answer, rr)
		} else {
			a.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(a)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ActivateAndServe() }()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
	t.Cleanup(func() { net.DefaultResolver = before; _ = conn.Close(); <-done })

	for _, c := range []struct{ args, want, err string }{
		{"", "http://127.0.0.1:2379", ""},
		{"-node h:1 -node https://g:2 -scheme https", "https://h:1,https://g:2", ""},
		{"-srv-domain example.test", "http://e1.example.test:2379", ""},
		{"-srv-record nodes.example.test -scheme https", "https://e1.example.test:2379", ""},
		{"-srv-domain example.test -node h:1", "http://h:1", ""},
		{"-srv-domain missing.test", "", "looking for etcd's nodes"},
	} {
		s, err := parseSettings(append([]string{"-config-file", os.DevNull}, strings.Fields(c.args)...), os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		err = s.findNodes(t.Context())
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %s", c.args, err, c.err)
			}
			continue
		}
		if err != nil || s.nodes.String() != c.want {
			t.Errorf("%s: %v %v, want %s", c.args, s.nodes, err, c.want)
		}
	}
}

func TestTLS(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.crt")
	if err := os.WriteFile(bad, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := (&settings{}).tlsConfig(); c != nil || err != nil {
		t.Errorf("nothing asks for TLS: %v %v", c, err)
	}
	if c, err := (&settings{insecure: true}).tlsConfig(); err != nil || !c.InsecureSkipVerify {
		t.Errorf("insecure: %v %v", c, err)
	}
	for _, s := range []*settings{{ca: bad}, {ca: bad + ".missing"}, {cert: bad, key: bad}} {
		if _, err := s.tlsConfig(); err == nil {
			t.Errorf("%+v: no error", s)
		}
	}
}

// A certificate that was renewed on disk is used from the next connection on.
func TestRenewedCertificate(t *testing.T) {
	dir := t.TempDir()
	s := &settings{cert: filepath.Join(dir, "crt"), key: filepath.Join(dir, "key")}
	issue := func(name string) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
		crt, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{s.cert: {Type: "CERTIFICATE", Bytes: crt}, s.key: {Type: "PRIVATE KEY", Bytes: der}} {
			if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	issue("first")
	c, err := s.tlsConfig()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "renewed"} {
		issue(want)
		pair, err := c.GetClientCertificate(nil)
		if err != nil || pair.Leaf.Subject.CommonName != want {
			t.Errorf("%v %v, want the certificate of %s", pair, err, want)
		}
	}
}
