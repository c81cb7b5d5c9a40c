package openstack

import (
	"strings"
	"testing"

	"plasmid/provision/config"
	"plasmid/provision/plan"
)

// enough is a cloud that has all that a plan needs.
func enough() facts {
	return facts{
		Quotas:  map[string]quota{needInstances: {"instances", 10, 0}, needCores: {"cores", -1, 900}, kindFloatingIP + "s": {"floating-ips", 10, 8}},
		Flavors: map[string]flavorFacts{"small": {Name: "small", VCPUs: 2, RAM: 2048, Disk: 20}},
		Image:   &imageFacts{Name: "i", MinDisk: 10, MinRAM: 512},
		Zones:   []string{"az1"}, Volumes: true, VolumeZones: []string{"nova"}, VolumeTypes: []string{"ssd"},
	}
}

func TestPreflight(t *testing.T) {
	ext := &network{named("ext", "public")}
	used := with(madeNetwork, func(o *config.OpenStack) { o.Network = config.Network{Name: "old"} })
	volumes := with(madeNetwork, func(o *config.OpenStack) {
		o.BootVolume = &config.BootVolume{SizeGiB: 4, Type: "tape", AvailabilityZone: "az1"}
	})
	for _, c := range []struct {
		name string
		o    config.OpenStack
		s    *state
		f    func(*facts)
		says []string // one finding each; none: all is well
	}{
		{"all is well", madeNetwork, &state{External: ext}, func(*facts) {}, nil},
		{"quotas short by one", madeNetwork, &state{External: ext}, func(f *facts) {
			f.Quotas[needInstances] = quota{"instances", 10, 9}
			f.Quotas[needCores] = quota{"cores", 10, 7}
			f.Quotas[needRAM] = quota{"ram", 4095, 0}
			f.Quotas[kindFloatingIP+"s"] = quota{"floating-ips", 10, 9}
			f.Quotas[kindRule+"s"] = quota{"secgroup-rules", 4, 0}
			f.Quotas[kindPort+"s"] = quota{"ports", 2, 0}
		}, []string{"4096 more MiB of RAM", "4 more cores, and the project's quota has room for 3 (7 of 10 used)", "2 more floating IPs", "2 more instances", "3 more ports", "5 more security rules"}},
		{"quotas just enough", madeNetwork, &state{External: ext}, func(f *facts) {
			f.Quotas[needInstances] = quota{"instances", 2, 0}
			f.Quotas[kindPort+"s"] = quota{"ports", 3, 0}
			f.Quotas[kindRule+"s"] = quota{"secgroup-rules", 5, 0}
		}, nil},
		{"a small flavor", madeNetwork, &state{External: ext}, func(f *facts) {
			f.Flavors["small"] = flavorFacts{Name: "small", VCPUs: 1, RAM: 256, Disk: 5}
		}, []string{"256 MiB of RAM, image i needs 512", "disk of 5 GiB, image i needs 10"}},
		{"a flavor without a disk", madeNetwork, &state{External: ext}, func(f *facts) {
			f.Flavors["small"] = flavorFacts{Name: "small", VCPUs: 1, RAM: 512}
		}, []string{"no disk of its own"}},
		{"an image larger than it says", madeNetwork, &state{External: ext}, func(f *facts) { f.Image.VirtualSize = 20<<30 + 1 }, []string{"image i needs 21"}},
		{"volumes", volumes, &state{External: ext}, func(*facts) {}, []string{"size of 4 GiB, image i needs 10", `availability zone "az1" for volumes`, `no volume type "tape"`}},
		{"no block storage", volumes, &state{External: ext}, func(f *facts) { f.Volumes, f.Image = false, nil }, []string{"no block storage"}},
		{"a zone", with(madeNetwork, func(o *config.OpenStack) { o.AvailabilityZones = []string{"az1", "az3"} }), &state{External: ext}, func(*facts) {}, []string{`zone "az3"`}},
		{"user-data", madeNetwork, &state{External: ext}, func(f *facts) { f.UserData = maxUserData + 1 }, []string{"65536 bytes"}},
		{"no way from the outside", used, &state{External: ext, UsedNetwork: &network{named("n", "old")}}, func(f *facts) { f.Reached = []string{"other"} }, []string{"no router joins network old to network public"}},
		{"a way from the outside", used, &state{External: ext, UsedNetwork: &network{named("n", "old")}}, func(f *facts) { f.Reached = []string{"ext"} }, nil},
		{"a router without a gateway", with(madeNetwork, func(o *config.OpenStack) { o.Router = "edge" }), &state{External: ext, UsedRouter: &router{object: named("r", "edge")}}, func(*facts) {}, []string{"router edge has no gateway to network public"}},
		{"another network than before", madeNetwork, &state{External: ext, Networks: []network{{}}, Subnets: []subnet{{CIDR: "10.9.0.0/24", Gateway: "10.9.0.1"}}}, func(*facts) {}, []string{"has network 10.9.0.0/24"}},
		{"names", madeNetwork, &state{External: ext, Unresolved: []Finding{{"there is no network \"x\"", ""}}}, func(f *facts) {
			f.Findings = []Finding{{"there is no flavor \"y\"", ""}}
		}, []string{"network \"x\"", "flavor \"y\""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := testCluster(c.o, "core 2 floating")
			f := enough()
			c.f(&f)
			_, found := planner{cl, cl.Provider.OpenStack, c.s}.check(up(t, cl, c.s, "i"), f)
			if len(found) != len(c.says) {
				t.Fatalf("%d findings, want %d: %v", len(found), len(c.says), found)
			}
			for i, s := range c.says {
				if !strings.Contains(found[i].Problem, s) {
					t.Errorf("finding %d does not say %q: %s", i, s, found[i].Problem)
				}
			}
		})
	}
}

// What is replaced one by one needs no more than there is.
func TestReplacementNeedsNothing(t *testing.T) {
	c := testCluster(madeNetwork, "core 1 floating", "more 3 floating")
	s := complete(c, "old")
	s.Servers[0].Meta[metaImage] = "i"
	p := planner{c, c.Provider.OpenStack, s}
	pl := up(t, c, s, "i", member(c)...)
	f := enough()
	f.Quotas[needInstances] = quota{"instances", 4, 4}
	if uses, found := p.check(pl, f); len(found) > 0 || len(uses) > 0 {
		t.Errorf("%v %v", uses, found)
	}
	if !strings.Contains(lines(pl), plan.StepID(plan.Create, plan.KindMachine, "c-more-3")) {
		t.Errorf("nothing is replaced:\n%s", lines(pl))
	}
}
