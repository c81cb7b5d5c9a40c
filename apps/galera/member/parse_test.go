package member

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
)

func TestParseGrastate(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Position
		err        string
	}{
		{"shut down", "# GALERA saved state\nversion: 2.1\nuuid:    " + uuid + "\nseqno:   12\nsafe_to_bootstrap: 0\n", Position{uuid, 12}, ""},
		{"crashed", "version: 2.1\nuuid:    " + uuid + "\nseqno:   -1\nsafe_to_bootstrap: 0\n", Position{uuid, Unknown}, ""},
		{"being copied", "uuid:    " + noUUID + "\nseqno:   -1\n", Position{"", Unknown}, ""},
		{"undefined number", "uuid:    " + uuid + "\nseqno:   -9223372036854775808\n", Position{uuid, Unknown}, ""},
		{"our own", formatGrastate(Position{uuid, 7}), Position{uuid, 7}, ""},
		{"empty", "", Position{"", Unknown}, "lacks uuid or seqno"},
		{"cut off", "uuid: " + uuid + "\nseq", Position{}, "not of the form"},
		{"no number", "uuid: " + uuid + "\nseqno: x\n", Position{}, "no number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseGrastate(c.text)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got %v %v, want %v", got, err, c.want)
			}
		})
	}
}

func TestParseRecovered(t *testing.T) {
	const head = "2026-11-25 15:42:30 0 [Note] "
	for _, c := range []struct {
		name, log string
		want      Position
		ok        bool
	}{
		{"a position", head + "Plugin 'FEEDBACK' is disabled.\n" + head + "WSREP: Recovered position: " + uuid + ":8\n", Position{uuid, 8}, true},
		{"with a GTID", head + "WSREP: Recovered position: " + uuid + ":8,0-1-3\n", Position{uuid, 8}, true},
		{"the last counts", "WSREP: Recovered position: " + uuid + ":8\nWSREP: Recovered position: " + uuid + ":9\n", Position{uuid, 9}, true},
		{"none in the data", "WSREP: Recovered position: " + noUUID + ":-1\n", Position{"", Unknown}, true},
		{"it failed", "[ERROR] InnoDB: corrupted\n", Position{"", Unknown}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseRecovered(c.log)
			if got != c.want || (err == nil) != c.ok {
				t.Errorf("got %v %v", got, err)
			}
		})
	}
}

func TestServerOf(t *testing.T) {
	vars := func(change ...string) map[string]string {
		m := map[string]string{"wsrep_cluster_status": "Primary", "wsrep_ready": "ON", "wsrep_connected": "ON", "wsrep_local_state": "4",
			"wsrep_cluster_state_uuid": uuid, "wsrep_local_recv_queue": "0", "wsrep_incoming_addresses": "10.0.0.1:3306,10.0.0.2:3306"}
		for i := 0; i < len(change); i += 2 {
			m[change[i]] = change[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name            string
		vars            map[string]string
		primary, synced bool
	}{
		{"in step", vars(), true, true},
		{"donor", vars("wsrep_local_state", "2"), true, false},
		{"joiner", vars("wsrep_local_state", "1", "wsrep_ready", "OFF"), true, false},
		{"outside", vars("wsrep_cluster_status", "non-Primary"), false, false},
		{"without a provider", map[string]string{}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serverOf(c.vars)
			if s.Primary != c.primary || s.Synced != c.synced {
				t.Errorf("got %+v", s)
			}
		})
	}
	if s := serverOf(vars("wsrep_local_recv_queue", "3")); s.Queue != 3 || s.UUID != uuid || !slices.Equal(s.Members, []string{"10.0.0.1", "10.0.0.2"}) {
		t.Errorf("got %+v", s)
	}
	if s := serverOf(vars("wsrep_connected", "OFF", "wsrep_cluster_status", "Disconnected")); !s.Closed || s.Primary {
		t.Errorf("got %+v", s)
	}
	// A member that is about to join has no address yet.
	if s := serverOf(vars("wsrep_incoming_addresses", "10.0.0.1:3306,AUTO,")); !slices.Equal(s.Members, []string{"10.0.0.1"}) {
		t.Errorf("got %v", s.Members)
	}
}

func TestRender(t *testing.T) {
	s := Settings{ID: "a-1", Address: "10.0.0.1", Name: "galera", Data: "/d"}
	text := s.render([]string{"10.0.0.2", "10.0.0.3"})
	for _, want := range []string{
		"wsrep_cluster_address = gcomm://10.0.0.2,10.0.0.3\n", "bind-address = 10.0.0.1\n", "datadir = /d\n",
		"gmcast.listen_addr=ssl://10.0.0.1:4567;", "sockopt = bind=10.0.0.1\n", "innodb_flush_log_at_trx_commit = 1\n", "pc.recovery=no;",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if text := s.render(nil); !strings.Contains(text, "wsrep_cluster_address = gcomm://\n") {
		t.Errorf("to start a cluster:\n%s", text)
	}
}

func TestTLS(t *testing.T) {
	secret, err := NewTLS()
	if err != nil {
		t.Fatal(err)
	}
	cert, key := SplitTLS(secret)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: ServerName, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Errorf("use %v: %v", use, err)
		}
	}
	if strings.Contains(string(cert), "PRIVATE") || !strings.Contains(string(key), "PRIVATE") {
		t.Error("certificate and key are mixed up")
	}
	if cert, _ := SplitTLS("nothing"); cert != nil {
		t.Errorf("got %q from nothing", cert)
	}
}
