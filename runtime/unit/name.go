package unit

import (
	"fmt"
	"slices"
	"strings"
)

// MaxNameLength is systemd's limit (UNIT_NAME_MAX) on a unit's name, in bytes.
const MaxNameLength = 255

// Types are the unit types that can be given to the cluster: those that fleet
// took.
var Types = []string{"service", "socket", "busname", "target", "snapshot", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope"}

// gone are the types among them that systemd no longer has. Such a unit can be
// kept, as fleet kept it, but not be put on a machine.
var gone = map[string]string{"snapshot": "228", "busname": "234"}

// templated are the types that may have templates.
var templated = []string{"service", "socket", "target", "timer", "path", "mount", "swap", "automount"}

// Name is a unit's name in its parts: Prefix[@Instance].Type.
type Name struct {
	Full     string // app@1.service
	Prefix   string // app
	Instance string // 1; empty for a template and for a plain unit
	Type     string // service
	Template bool   // app@.service
}

// ParseName splits a unit's name, and refuses one that systemd would refuse.
func ParseName(s string) (Name, error) {
	if s == "" {
		return Name{}, fmt.Errorf("a unit needs a name")
	}
	if len(s) > MaxNameLength {
		return Name{}, fmt.Errorf("unit name %.20q… has %d bytes; at most %d are allowed", s, len(s), MaxNameLength)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return !nameRune(r) }); i >= 0 {
		return Name{}, fmt.Errorf("unit name %q: character %q is not allowed; use letters, digits and : - _ . \\ @", s, []rune(s[i:])[0])
	}
	dot := strings.LastIndexByte(s, '.')
	if dot < 0 {
		return Name{}, fmt.Errorf("unit name %q has no type; did you mean %q?", s, s+".service")
	}
	n := Name{Full: s, Type: s[dot+1:]}
	if !slices.Contains(Types, n.Type) {
		return Name{}, fmt.Errorf("unit name %q: %q is no unit type; it is one of %s", s, n.Type, strings.Join(Types, ", "))
	}
	var at bool
	n.Prefix, n.Instance, at = strings.Cut(s[:dot], "@")
	if n.Prefix == "" {
		return Name{}, fmt.Errorf("unit name %q has nothing before its %q", s, s[:1])
	}
	if at && !slices.Contains(templated, n.Type) {
		return Name{}, fmt.Errorf("unit name %q: a %s can't have instances", s, n.Type)
	}
	n.Template = at && n.Instance == ""
	return n, nil
}

func nameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(`:-_.\@`, r)
}

// Runnable returns why no machine can have a unit of this name, or nil.
func (n Name) Runnable() error {
	if n.Template {
		return fmt.Errorf("%s is a template and can't run itself; name an instance, such as %s", n.Full, n.InstanceOf("1"))
	}
	if since := gone[n.Type]; since != "" {
		return fmt.Errorf("%s can't run: systemd has no %s units since version %s", n.Full, n.Type, since)
	}
	return nil
}

// TemplateOf is the name of the template that n is an instance of, or empty.
func (n Name) TemplateOf() string {
	if n.Instance == "" {
		return ""
	}
	return n.Prefix + "@." + n.Type
}

// InstanceOf is the name of a template's instance.
func (n Name) InstanceOf(instance string) string { return n.Prefix + "@" + instance + "." + n.Type }

// expand replaces the specifiers that fleet knew: %n the full name, %N the
// name without its type, %p the part before the @, %i the part after it, and
// %% a percent sign. Others stay as they are.
func (n Name) expand(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	return strings.NewReplacer(
		"%%", "%",
		"%n", n.Full,
		"%N", strings.TrimSuffix(n.Full, "."+n.Type),
		"%p", n.Prefix,
		"%i", n.Instance,
	).Replace(s)
}
