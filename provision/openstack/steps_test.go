package openstack

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"plasmid/provision"
	"plasmid/provision/config"
	"plasmid/provision/plan"
)

// testCluster has node groups "name count mode".
func testCluster(o config.OpenStack, groups ...string) *config.Cluster {
	c := &config.Cluster{Name: "c", Provider: config.Provider{OpenStack: &o}}
	for _, g := range groups {
		n := config.NodeGroup{Etcd: 1}
		if len(c.Nodes) > 0 {
			n.Etcd = 0
		}
		if _, err := fmt.Sscan(g, &n.Name, &n.Count, &n.PublicIPv4); err != nil {
			panic(err)
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

var madeNetwork = config.OpenStack{Flavor: "small", Network: config.Network{CIDR: "10.42.0.0/24"}, SSHAllow: []string{"203.0.113.0/24"}, PublicPorts: []int{80}}

func with(o config.OpenStack, f func(*config.OpenStack)) config.OpenStack {
	f(&o)
	return o
}

func named(id, name string) object { return object{ID: id, Name: name} }

// complete is the state of a cluster that is all as wanted.
func complete(c *config.Cluster, image string) *state {
	o := c.Provider.OpenStack
	ext := &network{named("ext", "public")}
	s := &state{External: ext}
	p := planner{c, o, s}
	if o.Network.Made() {
		s.Networks = []network{{named("n", "plasmid-c")}}
		s.Subnets = []subnet{{object: named("s", "plasmid-c"), Network: "n"}}
		if p.routed() {
			s.Routers = []router{{named("r", "plasmid-c"), "ext"}}
			s.Links = []link{{"r", "s", "lp"}}
		}
	} else {
		s.UsedNetwork, s.UsedSubnet = &network{named("used", o.Network.Name)}, &subnet{object: named("us", "")}
	}
	g := securityGroup{object: named("g", "plasmid-c")}
	for i, r := range p.rules() {
		g.Rules = append(g.Rules, rule{fmt.Sprint("rule", i), r})
	}
	s.Groups = []securityGroup{g}
	for _, w := range provision.Wanted(c, image) {
		ng, _ := nodeGroup(c, w.Group)
		id := "server-" + w.Name
		s.Servers = append(s.Servers, server{object: named(id, w.Name), Status: "ACTIVE", Meta: map[string]string{metaImage: image, metaShape: w.Shape}})
		s.Ports = append(s.Ports, port{object: named("port-"+w.Name, w.Name), Address: "10.42.0.9", Server: id, Groups: []string{"g"}})
		if o.TwoNICs(ng) {
			s.Ports = append(s.Ports, port{object: named("pub-"+w.Name, publicPort(w.Name)), Address: "203.0.113.9", Server: id, Groups: []string{"g"}})
		}
		if ng.PublicIPv4 == "floating" {
			s.FloatingIPs = append(s.FloatingIPs, floatingIP{named("fip-"+w.Name, w.Name), "203.0.113.8", "port-" + w.Name})
		}
		if o.BootVolume != nil {
			s.Volumes = append(s.Volumes, volume{named("vol-"+w.Name, w.Name), "in-use", image, w.Shape})
		}
	}
	return s
}

// lines are steps without their needs in quotes: "a < b" is a after b.
func lines(p plan.Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		b.WriteString(s.ID)
		for i, n := range s.Needs {
			if b.WriteString([]string{" < ", ", "}[min(i, 1)]); true {
				b.WriteString(n)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// up is what plasmid plan would show, for a state.
func up(t *testing.T, c *config.Cluster, s *state, image string, members ...plan.Member) plan.Plan {
	t.Helper()
	p := planner{c, c.Provider.OpenStack, s}
	in := plan.Input{Cluster: c.Name, Network: len(p.shared()) == 0, Wanted: provision.Wanted(c, image), Observed: observed(c, s), Members: members}
	made, err := plan.Make(in)
	if err != nil {
		t.Fatal(err)
	}
	return p.refine(in, made)
}

func member(c *config.Cluster) []plan.Member {
	var out []plan.Member
	for _, w := range provision.Wanted(c, "i") {
		out = append(out, plan.Member{Name: w.Name, Etcd: w.Etcd, Spec: w.Spec()})
	}
	return out
}

func want(t *testing.T, got plan.Plan, lns string) {
	t.Helper()
	if s := lines(got); s != strings.TrimPrefix(lns, "\n") {
		t.Errorf("got\n%s\nwant%s", s, lns)
	}
}

func TestFromNothing(t *testing.T) {
	c := testCluster(madeNetwork, "core 1 floating")
	want(t, up(t, c, &state{External: &network{named("ext", "public")}}, "i"), `
create network c
create subnet c < create network c
create router c
create router interface c < create subnet c, create router c
create security group c
create security rule all from the cluster (IPv4) < create security group c
create security rule tcp 22 from 203.0.113.0/24 (IPv4) < create security group c
create security rule tcp 80 from anywhere (IPv4) < create security group c
create port c-core-1 < create network c, create subnet c, create security group c
create floating IP c-core-1 < create port c-core-1, create router interface c, create router c
create machine c-core-1 < create network c, create port c-core-1, create floating IP c-core-1, create security rule all from the cluster (IPv4), create security rule tcp 22 from 203.0.113.0/24 (IPv4), create security rule tcp 80 from anywhere (IPv4)
create member c-core-1 < create machine c-core-1
`)
}

// What kinds of things are made in each way to give addresses.
func TestAddressModes(t *testing.T) {
	existing := with(madeNetwork, func(o *config.OpenStack) { o.Network = config.Network{Name: "provider"} })
	used := &state{UsedNetwork: &network{named("u", "provider")}, UsedSubnet: &subnet{object: named("us", "")}}
	ext := &network{named("ext", "public")}
	for _, c := range []struct {
		name   string
		o      config.OpenStack
		groups []string
		s      *state
		want   string
	}{
		{"two NICs need no router", madeNetwork, []string{"core 1 direct"}, &state{External: ext}, "network subnet security-group port public-port machine"},
		{"no public address, a way out", madeNetwork, []string{"core 1 none"}, &state{External: ext}, "network subnet router router-interface security-group port machine"},
		{"no public address, no way out", madeNetwork, []string{"core 1 none"}, &state{}, "network subnet security-group port machine"},
		{"a way in by one group", madeNetwork, []string{"core 1 none", "edge 1 floating"}, &state{External: ext}, "network subnet router router-interface security-group port machine port floating-IP machine"},
		{"on a provider network", existing, []string{"core 1 direct"}, used, "security-group port machine"},
		{"an existing network and floating addresses", existing, []string{"core 1 floating"}, &state{External: ext, UsedNetwork: used.UsedNetwork}, "security-group port floating-IP machine"},
		{"an existing router", with(madeNetwork, func(o *config.OpenStack) { o.Router = "edge" }), []string{"core 1 floating"}, &state{External: ext, UsedRouter: &router{named("ur", "edge"), "ext"}}, "network subnet router-interface security-group port floating-IP machine"},
		{"volumes and anti-affinity", with(madeNetwork, func(o *config.OpenStack) { o.BootVolume, o.AntiAffinity = &config.BootVolume{SizeGiB: 9}, "soft" }), []string{"core 1 direct"}, &state{External: ext}, "network subnet security-group server-group port public-port volume machine"},
	} {
		var kinds []string
		for _, s := range up(t, testCluster(c.o, c.groups...), c.s, "i").Steps {
			if s.Kind != kindRule && s.Kind != plan.KindMember {
				kinds = append(kinds, strings.ReplaceAll(s.Kind, " ", "-"))
			}
		}
		if got := strings.Join(kinds, " "); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

// What differs from the cluster file, by whoever's hand, is put right.
func TestMend(t *testing.T) {
	floating := testCluster(madeNetwork, "core 2 floating")
	for _, c := range []struct {
		name   string
		c      *config.Cluster
		change func(*state)
		want   string
	}{
		{"nothing to do", floating, func(*state) {}, "\n"},
		{"a rule is missing, another too many", floating, func(s *state) {
			s.Groups[0].Rules[3].ruleKey = ruleKey{"ingress", "IPv4", "tcp", 2379, ""}
		}, `
create security rule tcp 22 from 203.0.113.0/24 (IPv4)
delete security rule tcp 2379 from anywhere (IPv4)
`},
		{"nothing may go out", floating, func(s *state) { s.Groups[0].Rules = s.Groups[0].Rules[1:] }, `
create security rule all to anywhere (IPv4)
`},
		{"the router has lost its gateway and interface", floating, func(s *state) { s.Routers[0].External, s.Links = "", nil }, `
update router c
create router interface c < update router c
`},
		{"a port without the cluster's rules", floating, func(s *state) { s.Ports[1].Groups = []string{"default"} }, `
update port c-core-2
`},
		{"an address is lost", floating, func(s *state) { s.FloatingIPs = s.FloatingIPs[:1] }, `
create floating IP c-core-2
update member c-core-2 < create floating IP c-core-2
`},
		{"an address has no port", floating, func(s *state) { s.FloatingIPs[1].Port = "" }, `
create floating IP c-core-2
update member c-core-2 < create floating IP c-core-2
`},
		{"an address that is no longer wanted", testCluster(madeNetwork, "core 1 none"), func(s *state) {
			s.FloatingIPs = []floatingIP{{named("f", "c-core-1"), "203.0.113.7", "port-c-core-1"}}
		}, `
delete floating IP c-core-1
update member c-core-1 < delete floating IP c-core-1
`},
		{"a server is off", floating, func(s *state) { s.Servers[1].Status = "SHUTOFF" }, `
start machine c-core-2
`},
		{"a server is deleted, its port and address are kept", floating, func(s *state) { s.Servers = s.Servers[:1] }, `
create machine c-core-2
update member c-core-2 < create machine c-core-2
`},
		{"a server failed", floating, func(s *state) { s.Servers[1].Status, s.Servers[1].Fault = "ERROR", "No valid host" }, `
create machine c-core-2
update member c-core-2 < create machine c-core-2
`},
		{"a port is deleted, and with it the address", floating, func(s *state) { s.Ports, s.FloatingIPs[1].Port = s.Ports[:1], "" }, `
create port c-core-2
create floating IP c-core-2 < create port c-core-2
create machine c-core-2 < create port c-core-2, create floating IP c-core-2
update member c-core-2 < create machine c-core-2
`},
		{"left over of a machine that is no longer wanted", floating, func(s *state) {
			s.Ports = append(s.Ports, port{object: named("p", "c-core-3"), Groups: []string{"g"}})
			s.FloatingIPs = append(s.FloatingIPs, floatingIP{named("f", "c-core-4"), "203.0.113.7", ""})
		}, `
delete machine c-core-4
delete floating IP c-core-4 < delete machine c-core-4
delete machine c-core-3
delete port c-core-3 < delete machine c-core-3
`},
		{"made twice", floating, func(s *state) {
			s.Servers = append(s.Servers, server{object: named("x", "c-core-2"), Status: "ACTIVE"})
			s.Ports = append(s.Ports, port{object: named("y", "c-core-2"), Groups: []string{"g"}})
		}, `
delete duplicate machine x
delete duplicate port y < delete duplicate machine x
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := complete(c.c, "i")
			c.change(s)
			want(t, up(t, c.c, s, "i", member(c.c)...), c.want)
		})
	}
}

// A machine that is made anew keeps its ports and addresses, but not its volume.
func TestReplaceKeepsAddresses(t *testing.T) {
	c := testCluster(with(madeNetwork, func(o *config.OpenStack) { o.BootVolume = &config.BootVolume{SizeGiB: 9} }), "core 1 floating", "more 1 floating")
	s := complete(c, "old")
	s.Servers[0].Meta[metaImage], s.Volumes[0].Image = "i", "i"
	want(t, up(t, c, s, "i", member(c)...), `
delete member c-more-1
delete machine c-more-1 < delete member c-more-1
delete volume c-more-1 < delete machine c-more-1
create volume c-more-1 < delete volume c-more-1
create machine c-more-1 < delete machine c-more-1, create volume c-more-1
create member c-more-1 < create machine c-more-1
`)
}

func TestDown(t *testing.T) {
	c := testCluster(with(madeNetwork, func(o *config.OpenStack) { o.AntiAffinity = "hard" }), "core 1 floating", "edge 1 direct")
	s := complete(c, "i")
	s.ServerGroups = []serverGroup{{named("sg", mark("c"))}}
	p := planner{c, c.Provider.OpenStack, s}
	in := plan.Input{Cluster: "c", Network: true, Observed: observed(c, s)}
	want(t, p.refine(in, plan.Destroy(in)), `
delete machine c-core-1
delete floating IP c-core-1 < delete machine c-core-1
delete port c-core-1 < delete machine c-core-1, delete floating IP c-core-1
delete machine c-edge-1
delete port c-edge-1 < delete machine c-edge-1
delete public port c-edge-1 < delete machine c-edge-1
delete router interface c < delete floating IP c-core-1, delete machine c-core-1, delete port c-core-1, delete machine c-edge-1, delete port c-edge-1, delete public port c-edge-1
delete router c < delete router interface c, delete floating IP c-core-1
delete subnet c < delete router interface c, delete machine c-core-1, delete port c-core-1, delete machine c-edge-1, delete port c-edge-1, delete public port c-edge-1
delete network c < delete subnet c
delete security group c < delete machine c-core-1, delete port c-core-1, delete machine c-edge-1, delete port c-edge-1, delete public port c-edge-1
delete server group c < delete machine c-core-1, delete port c-core-1, delete machine c-edge-1, delete port c-edge-1, delete public port c-edge-1
`)
}

func TestDownOfNothing(t *testing.T) {
	c := testCluster(madeNetwork, "core 1 floating")
	p := planner{c, c.Provider.OpenStack, &state{}}
	in := plan.Input{Cluster: "c"}
	want(t, p.refine(in, plan.Destroy(in)), "\n")
}

// What the cluster uses and did not make is in no step that deletes.
func TestDownLeavesWhatWasThere(t *testing.T) {
	c := testCluster(with(madeNetwork, func(o *config.OpenStack) {
		o.Network, o.SecurityGroups = config.Network{Name: "provider"}, []string{"audit"}
	}), "core 1 direct")
	s := complete(c, "i")
	p := planner{c, c.Provider.OpenStack, s}
	in := plan.Input{Cluster: "c", Network: true, Observed: observed(c, s)}
	for _, st := range p.refine(in, plan.Destroy(in)).Steps {
		if slices.Contains([]string{plan.KindNetwork, kindSubnet, kindRouter, kindLink}, st.Kind) {
			t.Errorf("%s", st.ID)
		}
	}
}

func TestObserved(t *testing.T) {
	c := testCluster(madeNetwork, "core 1 floating", "edge 1 direct", "in 1 none")
	for _, o := range observed(c, complete(c, "i")) {
		public := map[string]string{"core": "203.0.113.8", "edge": "203.0.113.9", "in": ""}[o.Group]
		if o.PublicIPv4 != public || o.PrivateIPv4 != "10.42.0.9" || !o.Running || !o.Complete {
			t.Errorf("%+v", o)
		}
	}
	if got := observed(c, &state{}); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestOldestFirst(t *testing.T) {
	now := time.Now()
	list := []object{{ID: "b", Created: now}, {ID: "c", Created: now.Add(-time.Second)}, {ID: "a", Created: now}}
	slices.SortFunc(list, oldest)
	if list[0].ID != "c" || list[1].ID != "a" {
		t.Errorf("%v", list)
	}
}

func TestConsoleKey(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0wmN/Cr3JXqmLW7u+g9pTh+wyqDHpSQEIQczXkVx9q"
	if consoleKey("FAKE CONSOLE OUTPUT\nANOTHER\nLAST LINE\n"+key+" typed@login\n") != nil {
		t.Error("a key outside the markers is taken")
	}
	if consoleKey("[  9.1] x\r\nci-info: -----BEGIN SSH HOST KEY KEYS-----\r\n"+key+" root@m\r\n-----END SSH HOST KEY KEYS-----\r\n") == nil {
		t.Error("the key is not found")
	}
}

func TestUserData(t *testing.T) {
	data := string(userData([]string{"ssh-ed25519 AAAA me"}, "fa:16:3e:00:00:01"))
	for _, s := range []string{"#cloud-config\n", `"ssh-ed25519 AAAA me"`, "MACAddress=fa:16:3e:00:00:01", "UseGateway=no"} {
		if !strings.Contains(data, s) {
			t.Errorf("no %q in %s", s, data)
		}
	}
	if data := string(userData(nil, "")); strings.Contains(data, "MACAddress") {
		t.Error(data)
	}
}
