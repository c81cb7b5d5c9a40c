package openstack

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"gopkg.in/yaml.v2"
)

// Credentials say where a cloud is and who asks.
type Credentials struct {
	auth     gophercloud.AuthOptions
	endpoint gophercloud.EndpointOpts
	tls      *tls.Config
}

// FindCredentials reads an entry of clouds.yaml, with what secure.yaml adds, as
// OpenStack's own client does: named by cloud, else by OS_CLOUD. Without either
// the OS_* variables say everything. region wins over both, if it is not empty.
func FindCredentials(cloud, region string) (Credentials, error) {
	if cloud == "" {
		cloud = os.Getenv("OS_CLOUD")
	}
	var c Credentials
	var err error
	source := fmt.Sprintf("cloud %q of clouds.yaml", cloud)
	options := []clouds.ParseOption{clouds.WithCloudName(cloud)}
	if region != "" {
		options = append(options, clouds.WithRegion(region))
	}
	if cloud == "" {
		source = "the environment"
		entry, e := fromEnvironment()
		if e != nil {
			return c, e
		}
		data, e := json.Marshal(clouds.Clouds{Clouds: map[string]clouds.Cloud{"environment": entry}})
		if e != nil {
			return c, e
		}
		// JSON is YAML too.
		options = append(options, clouds.WithCloudName("environment"), clouds.WithCloudsYAML(strings.NewReader(string(data))))
	} else if e := entryExists(cloud); e != nil {
		return c, e
	}
	if c.auth, c.endpoint, c.tls, err = clouds.Parse(options...); err != nil {
		return c, fmt.Errorf("%s: %w", source, err)
	}
	if err := missing(c.auth, cloud != ""); err != nil {
		return c, fmt.Errorf("%s: %w", source, err)
	}
	c.auth.AllowReauth = c.auth.TokenID == "" // there is nothing to ask for a new one with
	if c.auth.ApplicationCredentialSecret != "" {
		// Such a credential is of one project already; Keystone refuses to be
		// asked for it.
		c.auth.Scope, c.auth.TenantID, c.auth.TenantName = nil, "", ""
	}
	return c, nil
}

// cloudsFiles are where clouds.yaml may be, the first one counts.
func cloudsFiles() []string {
	if f := os.Getenv("OS_CLIENT_CONFIG_FILE"); f != "" {
		return []string{f}
	}
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" {
		home, _ := os.UserHomeDir()
		config = filepath.Join(home, ".config")
	}
	return []string{"clouds.yaml", filepath.Join(config, "openstack", "clouds.yaml"), "/etc/openstack/clouds.yaml"}
}

// entryExists says what there is instead.
func entryExists(cloud string) error {
	for _, file := range cloudsFiles() {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var all clouds.Clouds
		if err := yaml.Unmarshal(data, &all); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		entry, ok := all.Clouds[cloud]
		if !ok {
			return fmt.Errorf("%s has no cloud %q; it has: %s", file, cloud, strings.Join(slices.Sorted(maps.Keys(all.Clouds)), ", "))
		}
		_, err = os.Stat(filepath.Join(filepath.Dir(file), "secure.yaml"))
		if entry.AuthInfo == nil && entry.Profile == "" && entry.Cloud == "" && err != nil {
			return fmt.Errorf("cloud %q in %s has no auth block", cloud, file)
		}
		return nil
	}
	return fmt.Errorf("cloud %q is looked for in clouds.yaml, and there is none; these were tried: %s. Download it from your cloud's dashboard (API Access), or set the OS_* variables and name no cloud",
		cloud, strings.Join(cloudsFiles(), ", "))
}

// fromEnvironment makes a cloud's entry of the OS_* variables.
func fromEnvironment() (clouds.Cloud, error) {
	get := func(names ...string) string {
		for _, n := range names {
			if v := os.Getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	if get("OS_AUTH_URL") == "" {
		return clouds.Cloud{}, errors.New(`no cloud is named and OS_AUTH_URL is not set: give provider "openstack" a cloud, which is an entry of clouds.yaml, or source the openrc file of your cloud`)
	}
	c := clouds.Cloud{
		RegionName:     get("OS_REGION_NAME"),
		Interface:      get("OS_INTERFACE", "OS_ENDPOINT_TYPE"),
		CACertFile:     get("OS_CACERT"),
		ClientCertFile: get("OS_CERT"),
		ClientKeyFile:  get("OS_KEY"),
		AuthInfo: &clouds.AuthInfo{
			AuthURL: get("OS_AUTH_URL"), Token: get("OS_TOKEN", "OS_AUTH_TOKEN"),
			Username: get("OS_USERNAME"), UserID: get("OS_USER_ID", "OS_USERID"), Password: get("OS_PASSWORD"),
			ProjectID: get("OS_PROJECT_ID", "OS_TENANT_ID"), ProjectName: get("OS_PROJECT_NAME", "OS_TENANT_NAME"),
			UserDomainID: get("OS_USER_DOMAIN_ID"), UserDomainName: get("OS_USER_DOMAIN_NAME"),
			ProjectDomainID: get("OS_PROJECT_DOMAIN_ID"), ProjectDomainName: get("OS_PROJECT_DOMAIN_NAME"),
			DomainID: get("OS_DOMAIN_ID", "OS_DEFAULT_DOMAIN"), DomainName: get("OS_DOMAIN_NAME"),
			TrustID: get("OS_TRUST_ID"), SystemScope: get("OS_SYSTEM_SCOPE"),
			ApplicationCredentialID:     get("OS_APPLICATION_CREDENTIAL_ID"),
			ApplicationCredentialName:   get("OS_APPLICATION_CREDENTIAL_NAME"),
			ApplicationCredentialSecret: get("OS_APPLICATION_CREDENTIAL_SECRET"),
		},
	}
	if v := strings.ToLower(get("OS_INSECURE")); v == "true" || v == "1" || v == "yes" {
		no := false
		c.Verify = &no
	}
	return c, nil
}

// missing names the first piece that is not there, by the name it has where
// the credentials come from.
func missing(a gophercloud.AuthOptions, file bool) error {
	piece := func(key, variable, why string) error {
		name := variable
		if file {
			name = "auth." + key
		}
		return fmt.Errorf("%s is missing: %s", name, why)
	}
	user := a.Username != "" || a.UserID != ""
	domain := a.DomainID != "" || a.DomainName != "" || a.UserID != ""
	project := a.Scope != nil
	switch {
	case a.IdentityEndpoint == "":
		return piece("auth_url", "OS_AUTH_URL", "it is the address of Keystone, such as https://cloud.example:5000/v3")
	case a.TokenID != "":
		return nil
	case a.ApplicationCredentialID != "" || a.ApplicationCredentialName != "":
		switch {
		case a.ApplicationCredentialSecret == "":
			return piece("application_credential_secret", "OS_APPLICATION_CREDENTIAL_SECRET", "an application credential has a secret, which may stand in secure.yaml")
		case a.ApplicationCredentialID == "" && !user:
			return piece("username", "OS_USERNAME", "an application credential that is given by its name belongs to a user; or give its ID")
		case a.ApplicationCredentialID == "" && !domain:
			return piece("user_domain_name", "OS_USER_DOMAIN_NAME", "users belong to a domain, mostly \"Default\"")
		}
		return nil
	case a.ApplicationCredentialSecret != "":
		return piece("application_credential_id", "OS_APPLICATION_CREDENTIAL_ID", "there is the secret of an application credential alone")
	case !user:
		return piece("username", "OS_USERNAME", "it, or an application credential, says who asks")
	case a.Password == "":
		return piece("password", "OS_PASSWORD", "it may stand in secure.yaml")
	case !domain:
		return piece("user_domain_name", "OS_USER_DOMAIN_NAME", "users belong to a domain, mostly \"Default\"")
	case !project:
		return piece("project_name", "OS_PROJECT_NAME", "machines are made in a project")
	case a.Scope.ProjectName != "" && a.Scope.DomainID == "" && a.Scope.DomainName == "":
		return piece("project_domain_name", "OS_PROJECT_DOMAIN_NAME", "projects belong to a domain, mostly \"Default\"")
	}
	return nil
}
