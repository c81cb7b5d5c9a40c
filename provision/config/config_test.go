package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what Load says into testdata")

// Every file in testdata/bad is refused, with the message that stands in the
// file of the same name that ends in .want.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".hcl"), func(t *testing.T) {
			_, err := Load(Source{File: file})
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v", err)
			}
			var b bytes.Buffer
			if err := bad.Print(&b, 0, false); err != nil {
				t.Fatal(err)
			}
			dir, err := filepath.Abs("testdata/bad")
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(b.String(), dir, "DIR")
			want := strings.TrimSuffix(file, ".hcl") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(text) {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}

// load reads a cluster file of the text, beside which the other files stand.
func load(t *testing.T, text string, s Source, files map[string]string) (*Cluster, error) {
	t.Helper()
	dir := t.TempDir()
	if files == nil {
		files = map[string]string{}
	}
	files["cluster.hcl"] = text
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.File = filepath.Join(dir, "cluster.hcl")
	return Load(s)
}

func TestDefaults(t *testing.T) {
	c, err := load(t, `cluster "c" {
  nodes "core" { count = 5 }
}`, Source{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &Cluster{
		Name: "c", Dir: c.Dir, Provider: Provider{Local: &Local{}}, Image: Image{Suite: "testing"}, Lease: 3 * time.Second,
		Nodes: []NodeGroup{{Name: "core", Count: 5, Etcd: 3, PublicIPv4: "floating"}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
	if !filepath.IsAbs(c.Dir) {
		t.Errorf("Dir is %q", c.Dir)
	}
}

func TestEverything(t *testing.T) {
	c, err := load(t, `
variable "cloud" { default = "" }
variable "extra" {
  type    = list(string)
  default = ["jq"]
}
locals {
  role  = "web"          # refers to nothing
  names = [local.first, upper(local.role)]
  first = "a-${local.role}"
}
cluster "c" {
  ssh_keys = ["ssh-ed25519 AAAA me"]
  lease    = "5s"
  provider "openstack" {
    cloud            = var.cloud == "" ? "mine" : var.cloud
    flavor           = "m1.medium"
    external_network = "public"
    network { cidr = cidrsubnet("10.42.0.0/16", 8, 3) }
    ssh_allow          = ["203.0.113.0/24"]
    public_ports       = [80, 443]
    availability_zones = ["az1"]
    anti_affinity      = "soft"
    boot_volume {
      size_gib          = 20
      type              = "ssd"
      availability_zone = "nova"
    }
    region            = "here"
    router            = "edge"
    dns               = ["9.9.9.9"]
    security_groups   = ["audit"]
    key_pair          = "mine"
    allowed_addresses = ["10.42.3.200"]
  }
  image {
    playbooks         = ["site.yml"]
    packages          = concat(var.extra, ["htop"])
    vars              = { n = 1, list = local.names, on = true, half = 0.5 }
    suite             = "trixie"
    mirror            = "http://mirror.example/debian"
    proxy             = "http://proxy.example:3128"
    check_valid_until = false
    disk_gib          = 8
  }
  nodes "web" {
    count       = 2
    public_ipv4 = "direct"
    metadata    = { role = local.role }
    flavor      = "m1.large"
  }
  nodes "db" {
    count = 3
    etcd  = 3
  }
  app "shop" {
    source = "shop"
    vars   = { replicas = length(local.names) }
  }
}`, Source{}, map[string]string{"site.yml": "[]", "shop/app.hcl": ""})
	if err != nil {
		t.Fatal(err)
	}
	no := false
	want := &Cluster{
		Name: "c", Dir: c.Dir, SSHKeys: []string{"ssh-ed25519 AAAA me"}, Lease: 5 * time.Second,
		Provider: Provider{OpenStack: &OpenStack{
			Cloud: "mine", Flavor: "m1.medium", ExternalNetwork: "public", Network: Network{CIDR: "10.42.3.0/24"},
			SSHAllow: []string{"203.0.113.0/24"}, PublicPorts: []int{80, 443}, AvailabilityZones: []string{"az1"},
			AntiAffinity: "soft", BootVolume: &BootVolume{20, "ssd", "nova"}, Region: "here", Router: "edge", DNS: []string{"9.9.9.9"},
			SecurityGroups: []string{"audit"}, KeyPair: "mine", AllowedAddresses: []string{"10.42.3.200"},
		}},
		Image: Image{
			Playbooks: []string{"site.yml"}, Packages: []string{"jq", "htop"}, Suite: "trixie",
			Vars:   map[string]any{"n": int64(1), "list": []any{"a-web", "WEB"}, "on": true, "half": 0.5},
			Mirror: "http://mirror.example/debian", Proxy: "http://proxy.example:3128", CheckValidUntil: &no, DiskGiB: 8,
		},
		Nodes: []NodeGroup{
			{Name: "web", Count: 2, PublicIPv4: "direct", Metadata: map[string]string{"role": "web"}, Flavor: "m1.large"},
			{Name: "db", Count: 3, Etcd: 3, PublicIPv4: "floating"},
		},
		Apps: []App{{Name: "shop", Source: "shop", Vars: map[string]any{"replicas": int64(2)}}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
}

// An image may be built on a server; what is of a local build is then refused,
// and the other way round: see testdata/bad.
func TestCloudBuild(t *testing.T) {
	c, err := load(t, `cluster "c" {
  provider "openstack" {
    flavor    = "m1.medium"
    ssh_allow = ["203.0.113.0/24"]
  }
  image {
    build  = "cloud"
    source = "debian-13"
    flavor = "m1.tiny"
  }
  nodes "core" { count = 1 }
}`, Source{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Image{Suite: "testing", Cloud: &CloudBuild{Source: "debian-13", Flavor: "m1.tiny"}}); !reflect.DeepEqual(c.Image, want) {
		t.Errorf("got %+v", c.Image)
	}
}

const counted = `
variable "machines" {
  type    = number
  default = 1
}
cluster "c" {
  nodes "core" { count = var.machines }
}`

// The command line wins over the environment, that over files, those over the
// default.
func TestVariablePrecedence(t *testing.T) {
	auto := map[string]string{"a.auto.hcl": "machines = 2", "b.auto.hcl": "machines = 3"}
	for _, c := range []struct {
		name string
		s    Source
		auto map[string]string
		want int
	}{
		{"default", Source{}, nil, 1},
		{"files, the last one", Source{}, auto, 3},
		{"environment", Source{Env: []string{"PLASMID_VAR_machines=4", "HOME=/x"}}, auto, 4},
		{"command line", Source{Env: []string{"PLASMID_VAR_machines=4"}, Vars: []string{"machines=5"}}, auto, 5},
		{"command line, the last one", Source{Vars: []string{"machines=5", "machines=6"}}, nil, 6},
	} {
		got, err := load(t, counted, c.s, c.auto)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got.Nodes[0].Count != c.want {
			t.Errorf("%s: %d machines, want %d", c.name, got.Nodes[0].Count, c.want)
		}
	}
}

func TestVariablesFromOutside(t *testing.T) {
	for _, c := range []struct {
		name string
		s    Source
		auto map[string]string
		says []string
	}{
		{"unknown on the command line", Source{Vars: []string{"machnies=2"}}, nil, []string{`no variable "machnies"`, `Did you mean "machines"?`}},
		{"unknown in a file", Source{}, map[string]string{"x.auto.hcl": "machnies = 2"}, []string{"x.auto.hcl:1", `no variable "machnies"`, `Did you mean "machines"?`}},
		{"no value", Source{Vars: []string{"machines"}}, nil, []string{"name=value"}},
		{"of the wrong type", Source{Vars: []string{"machines=many"}}, nil, []string{`Variable "machines"`, "number"}},
		{"a broken file", Source{}, map[string]string{"x.auto.hcl": "machines ="}, []string{"x.auto.hcl:1"}},
	} {
		_, err := load(t, counted, c.s, c.auto)
		if err == nil {
			t.Errorf("%s: taken", c.name)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: the error does not say %q: %v", c.name, s, err)
			}
		}
	}
}

// A list from the command line is an HCL expression.
func TestVariableOfRichType(t *testing.T) {
	c, err := load(t, `
variable "packages" { type = list(string) }
cluster "c" {
  image { packages = var.packages }
  nodes "core" { count = 1 }
}`, Source{Vars: []string{`packages=["jq", "htop"]`}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c.Image.Packages, []string{"jq", "htop"}) {
		t.Errorf("got %q", c.Image.Packages)
	}
}

func TestNoFile(t *testing.T) {
	_, err := Load(Source{File: filepath.Join(t.TempDir(), "cluster.hcl")})
	if err == nil || !strings.Contains(err.Error(), "there is no cluster file") {
		t.Errorf("got %v", err)
	}
}

// The example that the project comes with.
func TestExample(t *testing.T) {
	c, err := Load(Source{File: "../../cluster.hcl"})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Nodes) != 1 || c.Nodes[0].Count != 5 || c.Nodes[0].Etcd != 3 {
		t.Errorf("%+v", c.Nodes)
	}
	if len(c.Apps) != 1 || c.Apps[0].Name != "elk" || c.Apps[0].Source != "apps/elk" {
		t.Errorf("%+v", c.Apps)
	}
}

// The same on OpenStack: users and the operator come in by one machine, and the
// app's front is on it.
func TestExampleOnOpenStack(t *testing.T) {
	c, err := Load(Source{File: "../../openstack.hcl", Vars: []string{"cloud=mycloud", `ssh_allow=["192.0.2.1/32", "198.51.100.0/24"]`}})
	if err != nil {
		t.Fatal(err)
	}
	o := c.Provider.OpenStack
	if o == nil || o.Cloud != "mycloud" || len(o.SSHAllow) != 2 || !reflect.DeepEqual(o.PublicPorts, []int{80}) {
		t.Fatalf("%+v", o)
	}
	var machines, voters, public int
	for _, g := range c.Nodes {
		machines, voters = machines+g.Count, voters+g.Etcd
		if g.PublicIPv4 != "none" {
			public += g.Count
			if !reflect.DeepEqual(c.Apps[0].Vars["front"], map[string]any{"role": g.Metadata["role"]}) {
				t.Errorf("the app has %v, the machine with a public address %v", c.Apps[0].Vars, g.Metadata)
			}
		}
	}
	if machines != 5 || voters != 3 || public != 1 {
		t.Errorf("%d machines, %d voters, %d public addresses", machines, voters, public)
	}
	local, err := Load(Source{File: "../../cluster.hcl"})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c.Image, local.Image) || c.Name == local.Name {
		t.Errorf("image %+v of %s, and %+v of %s: one image serves both, and each has access of its own", c.Image, c.Name, local.Image, local.Name)
	}
}

func TestReboot(t *testing.T) {
	c, err := load(t, `cluster "c" {
  reboot {
    window = "Thu 04:00"
    length = "90m"
  }
  nodes "core" { count = 3 }
  nodes "web" {
    count = 9
    reboot {
      max      = 3
      drain    = "1m"
      patience = "5m"
    }
  }
  nodes "own" {
    count = 1
    reboot { group = "default" }
  }
}`, Source{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []*Reboot{
		{Group: "default", Max: 1, Window: "Thu 04:00", Length: 90 * time.Minute, Drain: 10 * time.Minute, Patience: 10 * time.Minute},
		{Group: "web", Max: 3, Drain: time.Minute, Patience: 5 * time.Minute},
		{Group: "default", Max: 1, Drain: 10 * time.Minute, Patience: 10 * time.Minute},
	}
	for i, w := range want {
		if !reflect.DeepEqual(c.Nodes[i].Reboot, w) {
			t.Errorf("%s: got %+v, want %+v", c.Nodes[i].Name, c.Nodes[i].Reboot, w)
		}
	}
}

func TestShape(t *testing.T) {
	made := &OpenStack{Flavor: "m1.small", Network: Network{CIDR: "10.42.0.0/24"}, ExternalNetwork: "public"}
	provided := &OpenStack{Flavor: "m1.small", Network: Network{Name: "public"}, BootVolume: &BootVolume{SizeGiB: 20, Type: "ssd"}, AntiAffinity: "hard"}
	for _, c := range []struct {
		o    *OpenStack
		g    NodeGroup
		want string
	}{
		{nil, NodeGroup{PublicIPv4: "direct"}, ""},
		{made, NodeGroup{PublicIPv4: "floating"}, "flavor m1.small"},
		{made, NodeGroup{PublicIPv4: "direct", Flavor: "m1.large"}, "flavor m1.large, a NIC on the public network"},
		{provided, NodeGroup{PublicIPv4: "direct"}, "flavor m1.small, volume 20 GiB ssd, hard anti-affinity"},
	} {
		if got := (&Cluster{Provider: Provider{OpenStack: c.o}}).Shape(c.g); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
