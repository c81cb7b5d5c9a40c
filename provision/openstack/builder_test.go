package openstack

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"plasmid/provision/config"
)

func TestBuildCluster(t *testing.T) {
	for _, c := range []struct {
		name    string
		o       config.OpenStack
		modes   []string
		flavor  string
		mode    string
		network config.Network
	}{
		{"private only", config.OpenStack{Network: config.Network{CIDR: "10.42.0.0/24"}}, []string{"none"}, "", "none", config.Network{CIDR: "10.42.0.0/24"}},
		{"one way in", config.OpenStack{Network: config.Network{CIDR: "10.42.0.0/24"}}, []string{"none", "floating"}, "small", "floating", config.Network{CIDR: "10.42.0.0/24"}},
		{"two NICs", config.OpenStack{Network: config.Network{CIDR: "10.42.0.0/24"}, ExternalNetwork: "public"}, []string{"direct"}, "", "direct", config.Network{Name: "public"}},
		{"existing network", config.OpenStack{Network: config.Network{Name: "ours"}}, []string{"direct"}, "", "direct", config.Network{Name: "ours"}},
		{"existing router", config.OpenStack{Network: config.Network{CIDR: "10.42.0.0/24"}, Router: "edge"}, []string{"floating"}, "", "floating", config.Network{CIDR: "192.168.254.0/27"}},
		{"existing router, the same network", config.OpenStack{Network: config.Network{CIDR: "192.168.0.0/16"}, Router: "edge"}, []string{"floating"}, "", "floating", config.Network{CIDR: "172.30.254.0/27"}},
	} {
		c.o.Flavor, c.o.KeyPair, c.o.PublicPorts, c.o.BootVolume, c.o.AntiAffinity = "large", "mine", []int{80}, &config.BootVolume{SizeGiB: 20}, "soft"
		cl := &config.Cluster{Name: "demo", Provider: config.Provider{OpenStack: &c.o}, Image: config.Image{Cloud: &config.CloudBuild{Source: "debian", Flavor: c.flavor}}}
		for _, m := range c.modes {
			cl.Nodes = append(cl.Nodes, config.NodeGroup{Name: m, Count: 3, PublicIPv4: m})
		}
		b := NewBuilder(&Client{}, cl, "0a1b2c3d", nil)
		o, g := b.p.o, b.p.cluster.Nodes[0]
		wantFlavor := "large"
		if c.flavor != "" {
			wantFlavor = c.flavor
		}
		if g.PublicIPv4 != c.mode || o.Network != c.network || o.Flavor != wantFlavor || o.Image != "debian" {
			t.Errorf("%s: %s on %+v, flavor %s, image %s", c.name, g.PublicIPv4, o.Network, o.Flavor, o.Image)
		}
		if o.BootVolume != nil || o.KeyPair != "" || o.AntiAffinity != "" || len(o.PublicPorts) > 0 || o.TwoNICs(g) {
			t.Errorf("%s: %+v", c.name, o)
		}
		if cl.Provider.OpenStack.KeyPair != "mine" {
			t.Errorf("%s: the cluster itself was changed", c.name)
		}
		if m := b.machine(); m.Name != "demo-image-1" || b.p.mark() == mark("demo") {
			t.Errorf("%s: machine %s with mark %s", c.name, m.Name, b.p.mark())
		}
	}
}

// A user of a build's own, and no other.
func TestBuildUserData(t *testing.T) {
	text, ok := strings.CutPrefix(string(buildUserData("builder", "ssh-ed25519 AAAA")), "#cloud-config\n")
	var c struct {
		Users []struct {
			Name string   `json:"name"`
			Sudo string   `json:"sudo"`
			Keys []string `json:"ssh_authorized_keys"`
		} `json:"users"`
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil || !ok || len(c.Users) != 1 {
		t.Fatalf("%q: %v", text, err)
	}
	if u := c.Users[0]; u.Name != "builder" || u.Sudo != "ALL=(ALL) NOPASSWD:ALL" || !slices.Equal(u.Keys, []string{"ssh-ed25519 AAAA"}) {
		t.Errorf("%+v", u)
	}
}

// A snapshot becomes an image in one call: its tags come with its properties,
// and the mark of the build goes. What it booted with stays.
func TestSnapshotBecomesAnImage(t *testing.T) {
	img := &images.Image{MinRAMMegabytes: 0, Properties: map[string]any{"hw_disk_bus": "scsi", "os_distro": "other", propertyBuild: "x"}}
	got := map[string]any{}
	for _, patch := range asPushed(img, "abc", "forky") {
		m := patch.ToImagePatchMap()
		got[fmt.Sprint(m["op"], " ", m["path"])] = m["value"]
	}
	for k, want := range map[string]any{
		"remove /plasmid_build": nil, "replace /os_distro": "debian", "add /plasmid_image": "abc", "add /os_version": "forky",
		"replace /min_ram": minRAM,
	} {
		if v, ok := got[k]; !ok || want != nil && v != want {
			t.Errorf("%s: %v, want %v", k, v, want)
		}
	}
	if tags, _ := got["replace /tags"].([]string); !slices.Equal(tags, []string{"plasmid-image", "plasmid-image=abc"}) {
		t.Errorf("tags %v", got["replace /tags"])
	}
	for k := range got {
		if strings.Contains(k, "/hw_") {
			t.Errorf("%s", k)
		}
	}
}

// Only snapshots of one's own builds are removed.
func TestClearRemovesSnapshotsOfItsOwn(t *testing.T) {
	s := &services{answers: map[string][]string{}}
	for _, k := range []string{"networks", "subnets", "routers", "ports", "floatingips"} {
		s.answers["GET /network/"+k] = []string{`200 {"` + k + `": []}`}
	}
	s.answers["GET /network/security-groups"] = []string{`200 {"security_groups": []}`}
	s.answers["GET /compute/servers/detail"] = []string{`200 {"servers": []}`}
	s.answers["GET /compute/os-server-groups"] = []string{`200 {"server_groups": []}`}
	s.answers["GET /volume/volumes/detail"] = []string{`200 {"volumes": []}`}
	s.answers["GET /image/images"] = []string{`200 {"images": [
		{"id": "ours", "plasmid_build": "c+image-me"},
		{"id": "another's", "plasmid_build": "c+image-you"},
		{"id": "done", "tags": ["plasmid-image"]}]}`}
	s.answers["DELETE /image/images/ours"] = []string{"409", "204"}
	o := madeNetwork
	cl := testCluster(o, "core 1 none")
	cl.Image.Cloud = &config.CloudBuild{Source: "debian"}
	b := NewBuilder(s.provider(o).c, cl, "me", nil)
	synctest.Test(t, func(t *testing.T) {
		if err := b.Clear(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if got, want := s.changed(), []string{"DELETE /image/images/ours", "DELETE /image/images/ours"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
