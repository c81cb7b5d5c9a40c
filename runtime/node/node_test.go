package node

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFactsFromInstanceData(t *testing.T) {
	for _, test := range []struct {
		name, data, private, public, cluster, wrong string
	}{
		{"of a config drive", `{"ds":{"meta_data":{"meta":{"plasmid_cluster":"demo","plasmid_public_ipv4":"203.0.113.7"}}}}`, "10.0.0.1", "203.0.113.7", "demo", ""},
		{"no public address", `{"ds":{"meta_data":{"meta":{"plasmid_cluster":"demo"}}}}`, "10.0.0.1", "10.0.0.1", "demo", ""},
		{"somebody else's", `{"ds":{"meta_data":{"meta":{}}}}`, "10.0.0.1", "10.0.0.1", "", ""},
		{"no metadata", `{}`, "10.0.0.1", "10.0.0.1", "", ""},
		{"no address", `{"ds":{"meta_data":{"meta":{"plasmid_public_ipv4":"$(reboot)"}}}}`, "", "", "", "is no IPv4 address"},
		{"IPv6", `{"ds":{"meta_data":{"meta":{"plasmid_public_ipv4":"2001:db8::1"}}}}`, "", "", "", "is no IPv4 address"},
		{"two NICs", `{"ds":{"meta_data":{"meta":{"plasmid_private_ipv4":"10.42.0.9","plasmid_public_ipv4":"203.0.113.7"}}}}`, "10.42.0.9", "203.0.113.7", "", ""},
		{"private only", `{"ds":{"meta_data":{"meta":{"plasmid_private_ipv4":"10.42.0.9"}}}}`, "10.42.0.9", "10.42.0.9", "", ""},
		{"no private address", `{"ds":{"meta_data":{"meta":{"plasmid_private_ipv4":"here"}}}}`, "", "", "", "plasmid_private_ipv4 \"here\" is no IPv4 address"},
		{"cut off", `{"ds":`, "", "", "", "instance-data.json"},
	} {
		f := Facts{PrivateIPv4: "10.0.0.1", PublicIPv4: "10.0.0.1"}
		err := f.fromInstanceData([]byte(test.data))
		if test.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err != nil || f.PrivateIPv4 != test.private || f.PublicIPv4 != test.public || f.Cluster != test.cluster {
			t.Errorf("%s: %+v %v", test.name, f, err)
		}
	}
}

func TestMerge(t *testing.T) {
	f := Facts{Name: "demo-core-1", Cluster: "demo", PrivateIPv4: "10.42.0.11", PublicIPv4: "203.0.113.7"}
	const ours = `COREOS_PRIVATE_IPV4=10.42.0.11
COREOS_PUBLIC_IPV4=203.0.113.7
PLASMID_PRIVATE_IPV4=10.42.0.11
PLASMID_PUBLIC_IPV4=203.0.113.7
PLASMID_NAME=demo-core-1
PLASMID_CLUSTER=demo
`
	for _, test := range []struct{ old, want string }{
		{"", ours},
		{"PATH=/bin\n", "PATH=/bin\n" + ours},
		{"PATH=/bin", "PATH=/bin\n" + ours}, // no end of line
		{"COREOS_PRIVATE_IPV4=1.2.3.4\nPATH=/bin\nPLASMID_NAME=old\n", "PATH=/bin\n" + ours},
		{"PLASMID_NAMES=kept\n", "PLASMID_NAMES=kept\n" + ours},
	} {
		got := merge(test.old, f)
		if got != test.want {
			t.Errorf("%q became %q", test.old, got)
		}
		if again := merge(got, f); again != got {
			t.Errorf("once more, %q became %q", got, again)
		}
	}
}

func TestLoad(t *testing.T) {
	const good = `{"cluster":"demo","name":"demo-core-1","privateIPv4":"10.42.0.11","etcdEndpoints":["https://10.42.0.11:2379"],"leaseSeconds":3}`
	for _, test := range []struct{ data, wrong string }{
		{good, ""},
		{strings.Replace(good, "demo-core-1", "", 1), "is incomplete"},
		{strings.Replace(good, ":3}", ":0}", 1), "is incomplete"},
		{`{"cluster":`, "node.json"},
	} {
		file := filepath.Join(t.TempDir(), "node.json")
		if err := os.WriteFile(file, []byte(test.data), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file)
		switch {
		case test.wrong == "" && (err != nil || c.Name != "demo-core-1" || c.Lease().Seconds() != 3):
			t.Errorf("%s: %+v %v", test.data, c, err)
		case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)):
			t.Errorf("%s: %v", test.data, err)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "node.json")); err == nil || !strings.Contains(err.Error(), "plasmid up") {
		t.Errorf("no file: %v", err)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	for _, test := range []struct {
		data    string
		changed bool
	}{{"one", true}, {"one", false}, {"two", true}} {
		changed, err := writeFile(name, []byte(test.data), 0o640, os.Getuid(), os.Getgid())
		if err != nil || changed != test.changed {
			t.Errorf("%s: changed %v, %v", test.data, changed, err)
		}
		got, _ := os.ReadFile(name)
		info, err := os.Stat(name)
		if err != nil || string(got) != test.data || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %q %v %v", test.data, got, info.Mode(), err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files are left", len(files))
	}
}

// A key is made once, kept to its owner, and asked with from then on.
func TestRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.key")
	public := func() string {
		text, err := request(file, 0o600, os.Getgid())
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(text))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(csr.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return string(der)
	}
	if first, second := public(), public(); first != second {
		t.Error("the second request has another key")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.WriteFile(file, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := request(file, 0o600, os.Getgid()); err == nil {
		t.Error("a damaged key was replaced without a word")
	}
}

func TestEnvironment(t *testing.T) {
	got := environment(map[string]string{"ETCD_NAME": "a", "ETCD_DATA_DIR": "/x y"})
	want := "# Written when this machine was joined.\nETCD_DATA_DIR=\"/x y\"\nETCD_NAME=\"a\"\n"
	if got != want {
		t.Errorf("got %q", got)
	}
}

// etcd serves clients and peers on the private address and on loopback, and
// asks both for certificates.
func TestEtcdEnvironment(t *testing.T) {
	env := EtcdEnvironment("b", "10.42.0.12", map[string]string{"b": "10.42.0.12", "a": "10.42.0.11"}, "token", false)
	for k, want := range map[string]string{
		"ETCD_INITIAL_CLUSTER":       "a=https://10.42.0.11:2380,b=https://10.42.0.12:2380",
		"ETCD_INITIAL_CLUSTER_STATE": "existing",
		"ETCD_CLIENT_CERT_AUTH":      "true",
		"ETCD_PEER_CLIENT_CERT_AUTH": "true",
		"ETCD_PEER_CERT_ALLOWED_CN":  EtcdPeerName,
	} {
		if env[k] != want {
			t.Errorf("%s=%s, want %s", k, env[k], want)
		}
	}
	for k, v := range env {
		if strings.HasSuffix(k, "_URLS") && (strings.Contains(v, "http://") || strings.Contains(v, "0.0.0.0")) {
			t.Errorf("%s=%s", k, v)
		}
	}
}
