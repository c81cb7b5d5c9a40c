package conf

import (
	"bufio"
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestParseTier(t *testing.T) {
	for _, tier := range Tiers {
		if got, err := ParseTier(string(tier)); got != tier || err != nil {
			t.Errorf("ParseTier(%q) = %q, %v", tier, got, err)
		}
	}
	for _, s := range []string{"", "kvm", "Fake"} {
		if _, err := ParseTier(s); err == nil || !strings.Contains(err.Error(), "fake") {
			t.Errorf("ParseTier(%q) says %v", s, err)
		}
	}
}

func TestTiersDifferInNovaComputeOnly(t *testing.T) {
	const compute = "/etc/nova/nova-compute.conf"
	want := map[Settings]string{
		{Tier: Fake}:            "fake.FakeDriver",
		{Tier: LXC}:             "virt_type = lxc",
		{Tier: QEMU}:            "virt_type = qemu",
		{Tier: QEMU, KVM: true}: "virt_type = kvm",
	}
	first, err := Files(Settings{Tier: Fake})
	if err != nil {
		t.Fatal(err)
	}
	for s, line := range want {
		files, err := Files(s)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(files[compute]), line) {
			t.Errorf("%v: no %q in\n%s", s, line, files[compute])
		}
		delete(files, compute)
		rest := maps.Clone(first)
		delete(rest, compute)
		if !maps.EqualFunc(files, rest, bytes.Equal) {
			t.Errorf("%v differs from %v in more than %s", s, Fake, compute)
		}
	}
}

var (
	section = regexp.MustCompile(`^\[[A-Za-z0-9_]+\]$`)
	setting = regexp.MustCompile(`^[a-z_0-9-]+( ?= ?.*)?$`)
)

// Every file of OpenStack's is what oslo.config reads: sections and settings,
// none of them twice.
func TestFilesAreWellFormed(t *testing.T) {
	for _, tier := range Tiers {
		files, err := Files(Settings{Tier: tier, Password: "s3cret"})
		if err != nil {
			t.Fatal(err)
		}
		for path, content := range files {
			if bytes.Contains(content, []byte("<no value>")) || bytes.Contains(content, []byte("{{")) {
				t.Errorf("%s has a value missing", path)
			}
			if !strings.HasSuffix(path, ".conf") && !strings.HasSuffix(path, ".ini") || strings.Contains(path, "rabbitmq") {
				continue
			}
			seen := map[string]bool{}
			in := ""
			for s := bufio.NewScanner(bytes.NewReader(content)); s.Scan(); {
				line := s.Text()
				key, _, _ := strings.Cut(line, " =")
				switch {
				case line == "" || line[0] == '#':
				case section.MatchString(line):
					in = line
					key = ""
				case !setting.MatchString(line):
					t.Errorf("%s: what is %q?", path, line)
				}
				if in+key != "" && line != "" && line[0] != '#' {
					if seen[in+key] {
						t.Errorf("%s: %s %s twice", path, in, key)
					}
					seen[in+key] = true
				}
			}
		}
	}
}

func TestEveryConnectionHasItsDatabase(t *testing.T) {
	files, err := Files(Settings{Tier: Fake})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`root@localhost/([a-z0-9_]+)\?`)
	for path, content := range files {
		for _, m := range named.FindAllStringSubmatch(string(content), -1) {
			if !slices.Contains(Databases, m[1]) {
				t.Errorf("%s: nobody makes the database %s", path, m[1])
			}
		}
	}
}

func TestPassword(t *testing.T) {
	files, err := Files(Settings{Tier: Fake, Password: "s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	clouds := string(files["/etc/openstack/clouds.yaml"])
	if strings.Count(clouds, "password: s3cret") != 2 || !strings.Contains(clouds, "\n  lab:\n") || !strings.Contains(clouds, "\n  lab-admin:\n") {
		t.Errorf("clouds.yaml:\n%s", clouds)
	}
}

func TestHashIsStable(t *testing.T) {
	if Hash() != Hash() || len(Hash()) != 64 {
		t.Errorf("%s, %s", Hash(), Hash())
	}
}
