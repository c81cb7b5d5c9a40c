package image

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	"plasmid/provision/config"
)

// aptPolicy is how packages are fetched.
type aptPolicy struct {
	Mirror  string   // empty: mmdebstrap's own default
	Options []string // in apt.conf syntax
}

// inherited are the host's settings that a build takes over.
var inherited = []string{
	"Acquire::http::Proxy", "Acquire::https::Proxy",
	"Acquire::Check-Valid-Until", "Acquire::Check-Date",
}

// AptPolicy reads the host's mirror, proxy and date policy, over which the
// image block of the cluster file wins.
func AptPolicy(ctx context.Context, c config.Image) (mirror string, options []string, err error) {
	p, err := hostPolicy(ctx)
	if err != nil {
		return "", nil, err
	}
	p.override(c)
	return p.Mirror, p.Options, nil
}

func hostPolicy(ctx context.Context) (aptPolicy, error) {
	dump, err := output(ctx, "apt-config", "dump")
	if err != nil {
		return aptPolicy{}, err
	}
	targets, err := output(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages", "Label: Debian")
	if err != nil {
		return aptPolicy{}, err
	}
	return parsePolicy(dump, targets), nil
}

func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("asking this host's apt with %s: %w", name, err)
	}
	return out, nil
}

// parsePolicy reads the output of apt-config dump and apt-get indextargets.
func parsePolicy(dump, targets []byte) aptPolicy {
	var p aptPolicy
	for s := bufio.NewScanner(bytes.NewReader(dump)); s.Scan(); {
		for _, name := range inherited {
			if rest, ok := strings.CutPrefix(s.Text(), name+" "); ok && rest != `"";` {
				p.Options = append(p.Options, s.Text())
			}
		}
	}
	for s := bufio.NewScanner(bytes.NewReader(targets)); s.Scan(); {
		if uri, component, _ := strings.Cut(s.Text(), " "); component == "main" {
			p.Mirror = uri
			break
		}
	}
	return p
}

func (p *aptPolicy) override(c config.Image) {
	if c.Mirror != "" {
		p.Mirror = c.Mirror
	}
	if c.Proxy != "" {
		p.set("Acquire::http::Proxy", c.Proxy)
		p.set("Acquire::https::Proxy", c.Proxy)
	}
	if c.CheckValidUntil != nil {
		p.set("Acquire::Check-Valid-Until", fmt.Sprint(*c.CheckValidUntil))
	}
}

func (p *aptPolicy) set(name, value string) {
	var kept []string
	for _, o := range p.Options {
		if !strings.HasPrefix(o, name+" ") {
			kept = append(kept, o)
		}
	}
	p.Options = append(kept, fmt.Sprintf("%s %q;", name, value))
}
