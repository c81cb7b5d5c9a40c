package join

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testKeyPEM(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// testRequest is of a machine that lies about who it is.
func testRequest(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "root", Organization: []string{"admin"}},
		DNSNames:    []string{"evil.example"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.1")},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func testAccess(t *testing.T) *Access {
	t.Helper()
	a, err := CreateAccess(filepath.Join(t.TempDir(), "access"), "t")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var testNode = Identity{Name: "plasmid", Role: RoleNode, DNS: []string{"t-core-1"}, IPs: []string{"10.0.0.11", "127.0.0.1"}, Server: true}

func parsed(t *testing.T, crt string) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode([]byte(crt))
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSignTakesOnlyTheKey(t *testing.T) {
	a := testAccess(t)
	p, err := a.SignRequest(testRequest(t, testKey(t)), "", testNode)
	if err != nil {
		t.Fatal(err)
	}
	c := parsed(t, p)
	if c.Subject.CommonName != "plasmid" || c.Subject.Organization[0] != "node" {
		t.Errorf("subject %v", c.Subject)
	}
	for _, name := range []string{"t-core-1", "10.0.0.11", "127.0.0.1"} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: a.ClientTLS().RootCAs, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c.VerifyHostname("192.0.2.1") == nil || c.VerifyHostname("evil.example") == nil {
		t.Error("a name from the request is in the certificate")
	}
}

func TestRequestsRefused(t *testing.T) {
	a := testAccess(t)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	b, _ := pem.Decode([]byte(testRequest(t, testKey(t))))
	b.Bytes[len(b.Bytes)-1] ^= 1
	for name, csr := range map[string]string{
		"nothing":     "",
		"not PEM":     "hello",
		"other PEM":   string(a.CA()),
		"curve":       testRequest(t, p384),
		"kind":        testRequest(t, ed),
		"not its own": string(pem.EncodeToMemory(b)),
	} {
		if crt, err := a.SignRequest(csr, "", testNode); err == nil {
			t.Errorf("%s: signed %s", name, crt)
		}
	}
}

func TestRenewal(t *testing.T) {
	a, other := testAccess(t), testAccess(t)
	key, key2, now := testKey(t), testKey(t), time.Now()
	moved, use := testNode, testNode
	moved.IPs = []string{"10.0.0.12", "127.0.0.1"}
	use.Name = "etcd"
	old, err := a.SignRequest(testRequest(t, key), "", testNode)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		a    *Access
		key  *ecdsa.PrivateKey
		id   Identity
		at   time.Time
		keep bool
	}{
		{"same", a, key, testNode, now, true},
		{"half its life over", a, key, testNode, now.Add(certLife / 2), true},
		{"less than a third left", a, key, testNode, now.Add(certLife * 7 / 10), false},
		{"over", a, key, testNode, now.Add(certLife * 2), false},
		{"new key", a, key2, testNode, now, false},
		{"new address", a, key, moved, now, false},
		{"other use", a, key, use, now, false},
		{"new authority", other, key, testNode, now, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.a.stillGood(old, &c.key.PublicKey, c.id, c.at); got != c.keep {
				t.Errorf("kept: %v, want %v", got, c.keep)
			}
		})
	}
	if again, err := a.SignRequest(testRequest(t, key), old, testNode); err != nil || again != old {
		t.Errorf("a good certificate is signed again: %v", err)
	}
}

func TestAppNames(t *testing.T) {
	a := testAccess(t)
	p, _, err := a.IssueApp("hello")
	if err != nil {
		t.Fatal(err)
	}
	if c := parsed(t, string(p)); c.Subject.CommonName != "app-hello" || c.Subject.Organization[0] != "app" {
		t.Errorf("subject %v", c.Subject)
	}
	other, _, err := testAccess(t).IssueApp("hello")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, c := range []struct {
		app, cert string
		now       time.Time
		good      bool
	}{
		{"hello", string(p), now, true},
		{"hello", string(p), now.Add(certLife * 6 / 10), true},
		{"hello", string(p), now.Add(certLife * 7 / 10), false},
		{"hello", string(p), now.Add(-time.Hour), false},
		{"other", string(p), now, false},
		{"hello", string(other), now, false},
		{"hello", "", now, false},
	} {
		if got := a.AppCertGood(c.app, c.cert, c.now); got != c.good {
			t.Errorf("certificate for %s at %v: good %v, want %v", c.app, c.now, got, c.good)
		}
	}
	for _, bad := range []string{"", "a/b", "Ä", "-a", "a-", "A", strings.Repeat("a", 64)} {
		if _, _, err := a.IssueApp(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestGuardQuorum(t *testing.T) {
	up := func(id uint64) EtcdMember { return EtcdMember{ID: id, Name: string(rune('a' + id)), Healthy: true} }
	down := func(id uint64) EtcdMember { return EtcdMember{ID: id, Name: string(rune('a' + id))} }
	learner := EtcdMember{ID: 9, Learner: true}
	for _, c := range []struct {
		name   string
		remove uint64
		list   []EtcdMember
		err    string
	}{
		{"of three", 0, []EtcdMember{up(0), up(1), up(2)}, ""},
		{"the dead of three", 0, []EtcdMember{down(0), up(1), up(2)}, ""},
		{"beside a dead one", 0, []EtcdMember{up(0), up(1), down(2)}, "only 1 of the 2 others"},
		{"two dead", 0, []EtcdMember{down(0), up(1), down(2)}, "no majority"},
		{"the dead of two", 0, []EtcdMember{down(0), up(1)}, "no majority"},
		{"two of five dead", 0, []EtcdMember{down(0), down(1), up(2), up(3), up(4)}, ""},
		{"three of five dead", 0, []EtcdMember{down(0), down(1), down(2), up(3), up(4)}, "b, c"},
		{"the last", 0, []EtcdMember{up(0)}, "last etcd member"},
		{"the last beside a learner", 0, []EtcdMember{up(0), learner}, "last etcd member"},
		{"a learner", 9, []EtcdMember{up(0), learner}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := guardQuorum(c.list, c.remove, "x")
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
		})
	}
}
