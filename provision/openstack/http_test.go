package openstack

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/gophercloud/gophercloud/v2"

	"plasmid/provision/config"
	"plasmid/provision/plan"
)

// services answers what a test says, for what a lab can't cause. Answers are by
// "METHOD /path"; of several the last stays.
type services struct {
	mu      sync.Mutex
	answers map[string][]string // "code body"
	calls   []string
}

// RoundTrip is called directly: synctest's clock does not see sockets.
func (s *services) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.Method + " " + r.URL.Path
	body := ""
	if r.Body != nil {
		data, _ := io.ReadAll(r.Body)
		body = " " + string(data)
	}
	s.calls = append(s.calls, key+body)
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	list := s.answers[key]
	if len(list) == 0 {
		list = []string{"404"}
	}
	if len(list) > 1 {
		s.answers[key] = list[1:]
	}
	var code int
	var rest string
	fmt.Sscanf(list[0], "%d", &code)
	_, rest, _ = strings.Cut(list[0], " ")
	w.WriteHeader(code)
	w.WriteString(rest)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func (s *services) provider(o config.OpenStack) *Provider {
	p := &gophercloud.ProviderClient{HTTPClient: http.Client{Transport: s}}
	client := func(path string) *gophercloud.ServiceClient {
		return &gophercloud.ServiceClient{ProviderClient: p, Endpoint: "http://cloud.example/" + path + "/", ResourceBase: "http://cloud.example/" + path + "/"}
	}
	c := &Client{compute: client("compute"), network: client("network"), image: client("image"), volume: client("volume")}
	return New(c, testCluster(o, "core 1 floating"), nil)
}

func (s *services) changed() []string {
	return slices.DeleteFunc(slices.Clone(s.calls), func(c string) bool { return strings.HasPrefix(c, "GET ") })
}

// Routers of every kind let go of the network: plain, distributed and highly
// available ones have ports of different owners; their gateway goes first.
func TestRoutersOfEveryKind(t *testing.T) {
	for _, owner := range routerOwners {
		s := &services{answers: map[string][]string{
			"GET /network/networks": {`200 {"networks": [{"id": "n", "description": "plasmid-cluster=c"}]}`},
			"GET /network/ports": {`200 {"ports": [
				{"id": "p", "device_owner": "` + owner + `", "device_id": "r", "fixed_ips": [{"subnet_id": "s"}]},
				{"id": "d", "device_owner": "network:dhcp", "device_id": "x", "fixed_ips": [{"subnet_id": "s"}]}]}`},
			"GET /network/routers":                           {`200 {"routers": [{"id": "r", "description": "plasmid-cluster=c", "external_gateway_info": {"network_id": "ext"}}, {"id": "other", "description": ""}]}`},
			"PUT /network/routers/r/remove_router_interface": {`409 {"NeutronError": {"message": "floating IPs"}}`, `200 {}`},
			"PUT /network/routers/r":                         {`200 {"router": {"id": "r"}}`},
			"DELETE /network/routers/r":                      {`409 {"NeutronError": {"message": "ports"}}`, `204`},
		}}
		p := s.provider(madeNetwork)
		synctest.Test(t, func(t *testing.T) {
			for _, kind := range []string{kindLink, kindRouter} {
				if err := p.Do(t.Context(), plan.Step{Action: plan.Delete, Kind: kind, Name: "c"}); err != nil {
					t.Errorf("%s: %v", owner, err)
				}
			}
		})
		want := []string{
			`PUT /network/routers/r/remove_router_interface {"subnet_id":"s"}`, `PUT /network/routers/r/remove_router_interface {"subnet_id":"s"}`,
			`PUT /network/routers/r {"router":{"external_gateway_info":{}}}`, "DELETE /network/routers/r", "DELETE /network/routers/r",
		}
		if got := s.changed(); !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", owner, got, want)
		}
	}
}

// The answer to adding a router's interface was lost: the call is made again,
// and refused.
func TestLinkThatIsThereAlready(t *testing.T) {
	s := &services{answers: map[string][]string{
		"GET /network/ports":                          {`200 {"ports": []}`, `200 {"ports": [{"id": "p", "device_owner": "network:router_interface", "device_id": "r", "fixed_ips": [{"subnet_id": "s"}]}]}`},
		"PUT /network/routers/r/add_router_interface": {`400 {"NeutronError": {"type": "BadRequest", "message": "Bad router request: Router already has a port on subnet s."}}`},
	}}
	p := s.provider(madeNetwork)
	p.state = &state{Networks: []network{{named("n", "")}}, Subnets: []subnet{{object: named("s", "")}}, Routers: []router{{object: named("r", "")}}}
	synctest.Test(t, func(t *testing.T) {
		if err := p.Do(t.Context(), plan.Step{Action: plan.Create, Kind: kindLink, Name: "c"}); err != nil {
			t.Error(err)
		}
	})
	if len(p.state.Links) != 1 {
		t.Errorf("%+v", p.state.Links)
	}
}

// What services return that is not the cluster's, because they do not know the
// filter or use it loosely, is not deleted.
func TestFiltersAreNotTrusted(t *testing.T) {
	s := &services{answers: map[string][]string{
		"GET /network/ports":            {`200 {"ports": [{"id": "a", "name": "c-core-1", "description": "plasmid-cluster=c-too"}, {"id": "b", "name": "c-core-10", "description": "plasmid-cluster=c"}, {"id": "d", "name": "c-core-1", "description": ""}]}`},
		"GET /network/floatingips":      {`200 {"floatingips": [{"id": "a", "description": "plasmid-cluster=c plasmid-machine=c-core-10"}, {"id": "b", "description": "plasmid-cluster=c-too plasmid-machine=c-core-1"}, {"id": "d", "description": ""}]}`},
		"GET /network/security-groups":  {`200 {"security_groups": [{"id": "a", "name": "plasmid-c", "description": "Default security group"}]}`},
		"GET /network/networks":         {`200 {"networks": [{"id": "a", "name": "plasmid-c", "description": ""}]}`},
		"GET /network/subnets":          {`200 {"subnets": [{"id": "a", "name": "plasmid-c", "description": ""}]}`},
		"GET /network/routers":          {`200 {"routers": [{"id": "a", "name": "plasmid-c", "description": ""}]}`},
		"GET /compute/servers/detail":   {`200 {"servers": [{"id": "a", "name": "c-core-1", "metadata": {"plasmid_cluster": "c-too"}}, {"id": "b", "name": "c-core-1", "metadata": {}}]}`},
		"GET /compute/os-server-groups": {`200 {"server_groups": [{"id": "a", "name": "c"}]}`},
		"GET /volume/volumes/detail":    {`200 {"volumes": [{"id": "a", "name": "c-core-1", "metadata": {"plasmid_cluster": "c-too"}}]}`},
	}}
	p := s.provider(madeNetwork)
	synctest.Test(t, func(t *testing.T) {
		for _, kind := range []string{plan.KindMachine, kindFloatingIP, kindPort, kindVolume, kindLink, kindRouter, kindSubnet, plan.KindNetwork, kindSecurityGroup, kindServerGroup} {
			name := "c"
			if kind == plan.KindMachine || kind == kindPort || kind == kindFloatingIP || kind == kindVolume {
				name = "c-core-1"
			}
			if err := p.Do(t.Context(), plan.Step{Action: plan.Delete, Kind: kind, Name: name}); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
		for _, d := range []string{"machine a", "port a", "floating IP b", "volume a"} {
			if err := p.Do(t.Context(), plan.Step{Action: plan.Delete, Kind: kindDuplicate, Name: d}); err != nil {
				t.Errorf("%s: %v", d, err)
			}
		}
	})
	if got := s.changed(); len(got) > 0 {
		t.Errorf("changed: %q", got)
	}
}

// The console is empty at first, and then it has the key.
func TestHostKeyFromTheConsole(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0wmN/Cr3JXqmLW7u+g9pTh+wyqDHpSQEIQczXkVx9q"
	console := func(text string) string {
		data, err := json.Marshal(map[string]string{"output": text})
		if err != nil {
			t.Fatal(err)
		}
		return "200 " + string(data)
	}
	s := &services{answers: map[string][]string{
		"GET /compute/servers/detail":    {`200 {"servers": [{"id": "s", "name": "c-core-1", "metadata": {"plasmid_cluster": "c"}}]}`},
		"POST /compute/servers/s/action": {`404 {"itemNotFound": {"message": "no console yet"}}`, console("[ 1.0] booting"), console("-----BEGIN SSH HOST KEY KEYS-----\n" + key + "\n-----END SSH HOST KEY KEYS-----\n")},
	}}
	p := s.provider(madeNetwork)
	synctest.Test(t, func(t *testing.T) {
		if k, err := p.HostKey(t.Context(), "c-core-1"); err != nil || k.Type() != "ssh-ed25519" {
			t.Errorf("%v %v", k, err)
		}
		if _, err := p.HostKey(t.Context(), "c-core-2"); err == nil {
			t.Error("a machine that is not there has a key")
		}
	})
}

// A boot volume is made with the cluster's mark, waited for, and deleted with
// its machine.
func TestBootVolume(t *testing.T) {
	o := with(madeNetwork, func(o *config.OpenStack) { o.BootVolume = &config.BootVolume{SizeGiB: 9, Type: "ssd"} })
	s := &services{answers: map[string][]string{
		"GET /image/images":          {`200 {"images": [{"id": "img", "status": "active"}]}`},
		"GET /volume/volumes/detail": {`200 {"volumes": []}`, `200 {"volumes": []}`, `200 {"volumes": [{"id": "v", "name": "c-core-1", "metadata": {"plasmid_cluster": "c"}}]}`},
		"POST /volume/volumes":       {`202 {"volume": {"id": "v", "status": "creating"}}`},
		"GET /volume/volumes/v":      {`200 {"volume": {"id": "v", "status": "downloading"}}`, `200 {"volume": {"id": "v", "status": "available"}}`, `404`},
		"DELETE /volume/volumes/v":   {`202`},
	}}
	p := s.provider(o)
	m := plan.Machine{Name: "c-core-1", Group: "core", Image: "i", Shape: "x"}
	synctest.Test(t, func(t *testing.T) {
		if err := p.Do(t.Context(), plan.Step{Action: plan.Create, Kind: kindVolume, Name: "c-core-1", Machine: &m}); err != nil {
			t.Fatal(err)
		}
		if err := p.Do(t.Context(), plan.Step{Action: plan.Delete, Kind: kindVolume, Name: "c-core-1"}); err != nil {
			t.Fatal(err)
		}
	})
	got := s.changed()
	if len(got) != 2 || !strings.Contains(got[0], `"plasmid_cluster":"c"`) || !strings.Contains(got[0], `"imageRef":"img"`) || !strings.Contains(got[0], `"size":9`) || got[1] != "DELETE /volume/volumes/v" {
		t.Errorf("%q", got)
	}
}
