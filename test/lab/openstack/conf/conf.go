// Package conf holds the configuration of the lab's services: what is under
// tree/, as templates, at the paths that the services read.
package conf

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
	"text/template"
)

//go:embed all:tree
var tree embed.FS

// Tier is what stands behind Nova.
type Tier string

const (
	Fake Tier = "fake" // no guests: servers are active at once and do nothing
	LXC  Tier = "lxc"  // libvirt-LXC guests, on this host's kernel
	QEMU Tier = "qemu" // virtual machines
)

// Tiers are all of them, the lightest first.
var Tiers = []Tier{Fake, LXC, QEMU}

// ParseTier refuses what is no tier.
func ParseTier(s string) (Tier, error) {
	for _, t := range Tiers {
		if s == string(t) {
			return t, nil
		}
	}
	return "", fmt.Errorf("no tier %q: there are fake (API only), lxc (containers) and qemu (virtual machines)", s)
}

// The lab's fixed names and addresses. They are seen in its namespaces only,
// so that no two labs can meet.
const (
	Host   = "plasmid-lab"
	Region = "lab"
	User   = "plasmid" // and the project of the same name

	IP             = "172.24.4.1" // of all endpoints, and the gateway of floating addresses
	ExternalBridge = "br-ext"
	ExternalCIDR   = "172.24.4.0/24"
	ExternalPool   = "172.24.4.10-172.24.4.250"

	ProviderIP     = "172.24.5.1"
	ProviderBridge = "br-prov"
	ProviderCIDR   = "172.24.5.0/24"
	ProviderPool   = "172.24.5.10-172.24.5.250"
)

// Databases are those that the services' connections name.
var Databases = []string{"keystone", "glance", "placement", "nova_api", "nova", "nova_cell0", "neutron"}

// Settings is what differs between labs.
type Settings struct {
	Tier     Tier
	KVM      bool   // the host can do better than emulate
	Password string // of every user of this lab
}

// Connection is how services reach a database.
func Connection(database string) string {
	return "mysql+pymysql://root@localhost/" + database + "?unix_socket=/run/mysqld/mysqld.sock&charset=utf8mb4"
}

// shared are the parts that many services' files have.
const shared = `
{{- define "auth"}}auth_type = password
auth_url = http://{{.IP}}:5000/v3
project_name = service
project_domain_name = Default
user_domain_name = Default
region_name = {{.Region}}
password = {{.Password}}
{{- end}}
{{- define "authtoken"}}www_authenticate_uri = http://{{.IP}}:5000
service_token_roles_required = true
token_cache_time = 300
{{template "auth" .}}
{{- end}}`

// Files renders all files, by their absolute paths in the lab's tree.
func Files(s Settings) (map[string][]byte, error) {
	values := map[string]any{
		"Tier": string(s.Tier), "KVM": s.KVM, "Password": s.Password,
		"Host": Host, "Region": Region, "User": User, "IP": IP,
		"ExternalBridge": ExternalBridge, "ProviderBridge": ProviderBridge,
	}
	base, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{"db": Connection}).Parse(shared)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	err = walk(func(path string, content []byte) error {
		t, err := template.Must(base.Clone()).New(path).Parse(string(content))
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := t.Execute(&b, values); err != nil {
			return err
		}
		files[path] = b.Bytes()
		return nil
	})
	return files, err
}

// Hash names this configuration, whatever the settings.
func Hash() string {
	h := sha256.New()
	_ = walk(func(path string, content []byte) error {
		fmt.Fprintf(h, "%s %d\n%s", path, len(content), content)
		return nil
	})
	fmt.Fprint(h, shared, Host, Region, User, IP, ExternalCIDR, ExternalPool, ProviderIP, ProviderCIDR, ProviderPool)
	return hex.EncodeToString(h.Sum(nil))
}

func walk(f func(path string, content []byte) error) error {
	return fs.WalkDir(tree, "tree", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := tree.ReadFile(path)
		if err != nil {
			return err
		}
		return f(strings.TrimPrefix(path, "tree"), content)
	})
}
