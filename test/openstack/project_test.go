//go:build openstack

package openstack

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	gopenstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"gopkg.in/yaml.v2"

	"plasmid/provision/openstack"
)

const admin = "lab-admin"

// project is one of the cloud's that a test has for itself: services list and
// limit by project, so that tests can run at the same time and count what they
// leave.
type project struct {
	cloud            string // entry of clouds.yaml, and the project's name
	id               string
	network, compute *gophercloud.ServiceClient // the test's own, beside the provider's
}

// theProjects are those that no test has now. They are used again, since to
// make one takes many calls.
var theProjects struct {
	mu   sync.Mutex
	free []*project
	made int
}

// newProject lends a test a project until its end.
func newProject(t testing.TB) *project {
	t.Helper()
	all := &theProjects
	all.mu.Lock()
	defer all.mu.Unlock()
	var p *project
	if n := len(all.free); n > 0 {
		p, all.free = all.free[n-1], all.free[:n-1]
	} else {
		all.made++
		var err error
		if p, err = makeProject(t.Context(), fmt.Sprintf("test-%d", all.made)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			return // there may be things in it
		}
		all.mu.Lock()
		defer all.mu.Unlock()
		all.free = append(all.free, p)
	})
	return p
}

// makeProject makes a project of a name, unless it is there, of which the lab's
// user is a member.
func makeProject(ctx context.Context, name string) (*project, error) {
	id, err := service(ctx, admin, gopenstack.NewIdentityV3)
	if err != nil {
		return nil, err
	}
	p := &project{cloud: name}
	made, err := projects.Create(ctx, id, projects.CreateOpts{Name: name, DomainID: "default"}).Extract()
	switch {
	case err == nil:
		p.id = made.ID
	case gophercloud.ResponseCodeIs(err, http.StatusConflict): // of a lab that was kept
		if p.id, err = idOf(ctx, id, "projects", name); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	user, err := idOf(ctx, id, "users", "plasmid")
	if err != nil {
		return nil, err
	}
	member, err := idOf(ctx, id, "roles", "member")
	if err != nil {
		return nil, err
	}
	if err := roles.Assign(ctx, id, member, roles.AssignOpts{UserID: user, ProjectID: p.id}).ExtractErr(); err != nil {
		return nil, err
	}
	if err := addCloud(name); err != nil {
		return nil, err
	}
	if p.network, err = service(ctx, name, gopenstack.NewNetworkV2); err != nil {
		return nil, err
	}
	if p.compute, err = service(ctx, name, gopenstack.NewComputeV2); err != nil {
		return nil, err
	}
	p.compute.Microversion = "2.64"
	return p, nil
}

// idOf finds a thing of Keystone's.
func idOf(ctx context.Context, c *gophercloud.ServiceClient, kind, name string) (string, error) {
	var body map[string]any
	if _, err := c.Get(ctx, c.ServiceURL(kind)+"?name="+name, &body, nil); err != nil {
		return "", err
	}
	list, _ := body[kind].([]any)
	if len(list) != 1 {
		return "", fmt.Errorf("%d %s have the name %s", len(list), kind, name)
	}
	return list[0].(map[string]any)["id"].(string), nil
}

// ownClouds has the tests use a clouds.yaml of their own, to which entries can
// be added.
func ownClouds(dir string) error {
	data, err := os.ReadFile(os.Getenv("OS_CLIENT_CONFIG_FILE"))
	if err != nil {
		return err
	}
	own := filepath.Join(dir, "clouds.yaml")
	os.Setenv("OS_CLIENT_CONFIG_FILE", own)
	return os.WriteFile(own, data, 0o600)
}

// addCloud adds an entry to clouds.yaml that is the lab's but for the project.
func addCloud(name string) error {
	file := os.Getenv("OS_CLIENT_CONFIG_FILE")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all clouds.Clouds
	if err := yaml.Unmarshal(data, &all); err != nil {
		return err
	}
	entry := all.Clouds["lab"]
	auth := *entry.AuthInfo
	auth.ProjectName = name
	entry.AuthInfo = &auth
	all.Clouds[name] = entry
	if data, err = yaml.Marshal(all); err != nil {
		return err
	}
	// Others may be reading it.
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// connect is a provider's client.
func (p *project) connect(t testing.TB) *openstack.Client {
	t.Helper()
	c, err := connect(t.Context(), p.cloud)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func connect(ctx context.Context, cloud string) (*openstack.Client, error) {
	creds, err := openstack.FindCredentials(cloud, "")
	if err != nil {
		return nil, err
	}
	return openstack.Connect(ctx, creds)
}

// service is a client of the test's own.
func service(ctx context.Context, cloud string, make func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)) (*gophercloud.ServiceClient, error) {
	auth, endpoint, _, err := clouds.Parse(clouds.WithCloudName(cloud))
	if err != nil {
		return nil, err
	}
	auth.AllowReauth = true
	p, err := gopenstack.AuthenticatedClient(ctx, auth)
	if err != nil {
		return nil, err
	}
	return make(p, endpoint)
}

// asAdmin is a client of the administrator's.
func asAdmin(t testing.TB, make func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)) *gophercloud.ServiceClient {
	t.Helper()
	c, err := service(t.Context(), admin, make)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// census lists everything that is the project's, by the services' own lists.
func (p *project) census(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	list := func(c *gophercloud.ServiceClient, path, key string) {
		var body map[string][]map[string]any
		if _, err := c.Get(context.Background(), c.ServiceURL(path), &body, nil); err != nil {
			t.Fatal(err)
		}
		for _, o := range body[key] {
			out[fmt.Sprint(key, " ", o["id"])] = fmt.Sprint(o["name"], " ", o["description"])
		}
	}
	for _, k := range []string{"networks", "subnets", "routers", "ports", "floatingips"} {
		list(p.network, k+"?project_id="+p.id, k) // else those of others that it may use, too
	}
	list(p.network, "security-groups", "security_groups")
	list(p.network, "security-group-rules", "security_group_rules")
	list(p.compute, "servers", "servers")
	list(p.compute, "os-server-groups", "server_groups")
	return out
}

// images are those of the project, by their IDs.
func (p *project) images(t *testing.T) map[string]string {
	t.Helper()
	c, err := service(context.Background(), p.cloud, gopenstack.NewImageV2)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := images.List(c, images.ListOpts{Owner: p.id}).AllPages(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	list, err := images.ExtractImages(pages)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, i := range list {
		out[i.ID] = i.Name
	}
	return out
}
