package join

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestIssueUser makes certificates for people and looks at what is in them.
func TestIssueUser(t *testing.T) {
	a, err := CreateAccess(t.TempDir()+"/access", "t")
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []Role{RoleReader, RoleOperator, RoleAdmin} {
		cert, key, err := a.IssueUser("alice", role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c := pair.Leaf
		// In etcd the common name is the user: it must be nobody's there.
		if c.Subject.CommonName != "user-alice" || !slices.Equal(c.Subject.Organization, []string{string(role)}) {
			t.Errorf("%s: %v", role, c.Subject)
		}
		if life := time.Until(c.NotAfter); life > time.Hour || life < 50*time.Minute {
			t.Errorf("good for %v", life)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(a.CA())
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
		if slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
			t.Error("it could pass for a machine")
		}
	}
	for name, role := range map[string]Role{"app/x": RoleReader, "": RoleReader, "Root": RoleAdmin, "bob": RoleNode, "eve": RoleApp, "x": "king"} {
		if _, _, err := a.IssueUser(name, role, time.Hour); err == nil || !strings.Contains(err.Error(), "cannot be a user's name") && !strings.Contains(err.Error(), "is none of admin") {
			t.Errorf("%q as %s: %v", name, role, err)
		}
	}
}
