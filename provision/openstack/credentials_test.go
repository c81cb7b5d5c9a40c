package openstack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// environment leaves of the OS_* variables only those that are given.
func environment(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "OS_") {
			t.Setenv(name, "") // so that it is put back
			os.Unsetenv(name)
		}
	}
	for k, v := range vars {
		t.Setenv(k, v)
	}
}

const password = `clouds:
  mine:
    auth:
      auth_url: https://cloud.example:5000/v3
      username: me
      user_domain_name: Default
      project_name: shop
      project_domain_name: Default
    region_name: north
    interface: internal
  machine:
    auth_type: v3applicationcredential
    auth:
      auth_url: https://cloud.example:5000/v3
      application_credential_id: abc
`

const secrets = `clouds:
  mine: { auth: { password: p } }
  machine: { auth: { application_credential_secret: s } }
`

func writeClouds(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "clouds.yaml")
}

func TestCredentialsFromFiles(t *testing.T) {
	file := writeClouds(t, map[string]string{"clouds.yaml": password, "secure.yaml": secrets})
	environment(t, map[string]string{"OS_CLIENT_CONFIG_FILE": file, "OS_CLOUD": "mine"})
	c, err := FindCredentials("", "")
	if err != nil {
		t.Fatal(err)
	}
	if c.auth.Password != "p" || c.auth.Scope.ProjectName != "shop" || c.endpoint.Region != "north" || c.endpoint.Availability != "internal" || !c.auth.AllowReauth {
		t.Errorf("%+v %+v", c.auth, c.endpoint)
	}
	// The cluster file wins over the environment.
	if c, err = FindCredentials("machine", "south"); err != nil {
		t.Fatal(err)
	}
	if c.auth.ApplicationCredentialSecret != "s" || c.auth.Scope != nil || c.endpoint.Region != "south" {
		t.Errorf("%+v %+v", c.auth, c.endpoint)
	}
}

func TestCredentialsFromEnvironment(t *testing.T) {
	user := map[string]string{
		"OS_AUTH_URL": "https://cloud.example:5000", "OS_USERNAME": "me", "OS_PASSWORD": "p", "OS_USER_DOMAIN_NAME": "Default",
		"OS_PROJECT_NAME": "shop", "OS_PROJECT_DOMAIN_ID": "default", "OS_REGION_NAME": "north", "OS_INSECURE": "true",
	}
	environment(t, user)
	c, err := FindCredentials("", "")
	if err != nil {
		t.Fatal(err)
	}
	if c.auth.DomainName != "Default" || c.auth.Scope.DomainID != "default" || c.endpoint.Region != "north" || !c.tls.InsecureSkipVerify {
		t.Errorf("%+v %+v", c.auth, c.endpoint)
	}
	environment(t, map[string]string{"OS_AUTH_URL": "https://cloud.example:5000", "OS_APPLICATION_CREDENTIAL_ID": "i", "OS_APPLICATION_CREDENTIAL_SECRET": "s"})
	if _, err = FindCredentials("", ""); err != nil {
		t.Error(err)
	}
	environment(t, map[string]string{"OS_AUTH_URL": "https://cloud.example:5000", "OS_TOKEN": "t", "OS_PROJECT_ID": "i"})
	if c, err = FindCredentials("", ""); err != nil || c.auth.AllowReauth {
		t.Error(c.auth, err)
	}
	user["OS_CACERT"] = filepath.Join(t.TempDir(), "nowhere.pem")
	environment(t, user)
	if _, err = FindCredentials("", ""); err == nil || !strings.Contains(err.Error(), "nowhere.pem") {
		t.Errorf("a CA file that is not there: %v", err)
	}
}

// What is missing is named as it is called there.
func TestMissingCredentials(t *testing.T) {
	full := writeClouds(t, map[string]string{"clouds.yaml": password})
	broken := writeClouds(t, map[string]string{"clouds.yaml": "clouds: ["})
	for _, c := range []struct {
		name, cloud string
		env         map[string]string
		says        []string
	}{
		{"nothing", "", nil, []string{"no cloud is named", "OS_AUTH_URL", "clouds.yaml"}},
		{"no file", "mine", map[string]string{"OS_CLIENT_CONFIG_FILE": "/nowhere/clouds.yaml"}, []string{`cloud "mine"`, "/nowhere/clouds.yaml", "dashboard"}},
		{"another cloud", "mnie", map[string]string{"OS_CLIENT_CONFIG_FILE": full}, []string{full, `no cloud "mnie"`, "machine, mine"}},
		{"a broken file", "mine", map[string]string{"OS_CLIENT_CONFIG_FILE": broken}, []string{broken}},
		{"no password", "mine", map[string]string{"OS_CLIENT_CONFIG_FILE": full}, []string{`cloud "mine"`, "auth.password is missing", "secure.yaml"}},
		{"no secret", "machine", map[string]string{"OS_CLIENT_CONFIG_FILE": full}, []string{"auth.application_credential_secret is missing"}},
		{"no user", "", map[string]string{"OS_AUTH_URL": "x"}, []string{"OS_USERNAME is missing"}},
		{"no password in the environment", "", map[string]string{"OS_AUTH_URL": "x", "OS_USERNAME": "me"}, []string{"OS_PASSWORD is missing"}},
		{"no domain", "", map[string]string{"OS_AUTH_URL": "x", "OS_USERNAME": "me", "OS_PASSWORD": "p"}, []string{"OS_USER_DOMAIN_NAME is missing"}},
		{"no project", "", map[string]string{"OS_AUTH_URL": "x", "OS_USER_ID": "u", "OS_PASSWORD": "p"}, []string{"OS_PROJECT_NAME is missing"}},
		{"no project domain", "", map[string]string{"OS_AUTH_URL": "x", "OS_USER_ID": "u", "OS_PASSWORD": "p", "OS_PROJECT_NAME": "shop"}, []string{"OS_PROJECT_DOMAIN_NAME is missing"}},
		{"a secret alone", "", map[string]string{"OS_AUTH_URL": "x", "OS_APPLICATION_CREDENTIAL_SECRET": "s"}, []string{"OS_APPLICATION_CREDENTIAL_ID is missing"}},
		{"a credential's name alone", "", map[string]string{"OS_AUTH_URL": "x", "OS_APPLICATION_CREDENTIAL_SECRET": "s", "OS_APPLICATION_CREDENTIAL_NAME": "n"}, []string{"OS_USERNAME is missing"}},
	} {
		environment(t, c.env)
		_, err := FindCredentials(c.cloud, "")
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
