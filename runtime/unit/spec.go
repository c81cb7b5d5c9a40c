package unit

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Spec is what a unit asks of the cluster, its specifiers expanded.
type Spec struct {
	Name string

	// fleet's options, [X-Fleet].
	Global    bool                // on every machine that fits
	MachineID string              // on this machine: its ID, or the first 8 digits of it
	MachineOf []string            // on the machine that has these units
	Metadata  map[string][]string // the machine's key has one of the values, for every key
	Conflicts []string            // globs of units it shares no machine with
	Replaces  []string            // units whose machine it takes

	// Plasmid's own, [X-Plasmid].
	App       string         // the app it belongs to; its keys are under /apps/<App>/
	Container string         // name of its container; empty: one named as the unit, without its type
	Images    []string       // pulled before the unit is started
	Ready     Ready          // when it counts as ready
	Register  []Registration // keys kept while it is ready
	Reserve   Reservations   // what it takes of its machine
	Spread    string         // host or a metadata key over whose values its like are spread
	Machine   []Requirement  // conditions on metadata and facts, which all must be met
	Life                     // how it lives

	// systemd's [Install], which the agent enables.
	WantedBy, RequiredBy []string
}

// Ready says how to find out whether an active unit does its work.
type Ready struct {
	Kind     string        // http, tcp or exec; empty: what systemd and Docker say
	Host     string        // empty: the machine itself
	Port     int           // the container's port if the unit has a container, else the host's
	Path     string        // of an http check
	Command  []string      // of an exec check
	Interval time.Duration // between two checks
	Timeout  time.Duration // of one check
}

// Registration is a key that exists while the unit is ready. Its value may
// hold ${HOST_IP}, ${PUBLIC_IP}, ${PORT_<n>}, ${MACHINE_ID} and ${NAME}, which
// the agent fills in.
type Registration struct {
	Key   string // under /apps/<App>, starts with a slash
	Value string
}

// Defaults of a readiness check. Two checks in a row fail before a unit is taken
// for unready: with this interval that is within a second.
const (
	DefaultReadyInterval = 500 * time.Millisecond
	DefaultReadyTimeout  = 2 * time.Second
)

const (
	sectionFleet   = "X-Fleet"
	sectionPlasmid = "X-Plasmid"
	sectionInstall = "Install"
	// sectionContainer makes a Quadlet of a unit; see package quadlet.
	sectionContainer = "Container"
)

// legacy spellings of fleet's options.
var legacy = map[string]string{
	"X-ConditionMachineID":       "MachineID",
	"X-ConditionMachineBootID":   "MachineID",
	"X-ConditionMachineOf":       "MachineOf",
	"X-ConditionMachineMetadata": "MachineMetadata",
	"X-Conflicts":                "Conflicts",
}

var (
	fleetOptions   = []string{"MachineID", "MachineOf", "MachineMetadata", "Conflicts", "Global", "Replaces"}
	installOptions = []string{"WantedBy", "RequiredBy"}
	plasmidOptions = []string{
		"App", "Container", "Images", "Ready", "ReadyInterval", "ReadyTimeout", "Register",
		"Cpu", "Memory", "Ports", "Spread", "Machine",
		"Retries", "RunOnce", "Singleton", "After", "Requires", "Update",
	}
)

// SpecOf reads what the unit asks of the cluster. Its error names the line and
// the option.
func SpecOf(name, text string) (Spec, error) {
	n, err := ParseName(name)
	if err != nil {
		return Spec{}, err
	}
	f, err := Parse(text)
	if err != nil {
		return Spec{}, fmt.Errorf("%s: %w", name, err)
	}
	return f.spec(n)
}

// Warnings are the things in a unit file that have no effect and were likely
// meant to have one, in sentences. fleet took such files, so they are no errors.
func (f *File) Warnings() []string {
	var ws []string
	odd := map[string]bool{}
	for i, o := range f.Options {
		if s := misspelt(o.Section); s != "" && !odd[o.Section] {
			odd[o.Section] = true
			ws = append(ws, fmt.Sprintf("line %d: section [%s] is ignored; did you mean [%s]?", f.Line(i), o.Section, s))
		}
		if o.Section == sectionFleet && !slices.Contains(fleetOptions, o.Name) && legacy[o.Name] == "" {
			ws = append(ws, fmt.Sprintf("line %d: unknown option %s= in [X-Fleet] is ignored%s", f.Line(i), o.Name, Suggest(o.Name, fleetOptions)))
		}
	}
	return ws
}

// misspelt returns the section of ours that a name was likely meant to be.
func misspelt(section string) string {
	for _, s := range []string{sectionFleet, sectionPlasmid} {
		if section != s && strings.EqualFold(strings.TrimPrefix(strings.ToLower(section), "x-"), strings.TrimPrefix(s, "X-")) {
			return s
		}
	}
	return ""
}

func (f *File) spec(n Name) (Spec, error) {
	s := Spec{Name: n.Full}
	var ready string
	for i, o := range f.Options {
		if err := s.set(n, o, &ready); err != nil {
			return Spec{}, fmt.Errorf("%s: line %d: %s=: %w", n.Full, f.Line(i), o.Name, err)
		}
	}
	if err := s.Ready.parse(n.expand(ready)); err != nil {
		return Spec{}, fmt.Errorf("%s: Ready=: %w", n.Full, err)
	}
	if err := s.check(); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", n.Full, err)
	}
	return s, nil
}

// set takes one option into the spec.
func (s *Spec) set(n Name, o Option, ready *string) error {
	value := n.expand(o.Value)
	switch o.Section {
	case sectionInstall:
		switch o.Name {
		case "WantedBy":
			s.WantedBy = append(s.WantedBy, strings.Fields(value)...)
		case "RequiredBy":
			s.RequiredBy = append(s.RequiredBy, strings.Fields(value)...)
		}
		return nil
	case sectionContainer:
		switch {
		case o.Name == "ContainerName":
			s.Container = value
		case s.Container != "":
		case n.Instance != "":
			s.Container = n.Prefix + "-" + n.Instance // Docker's names have no @
		default:
			s.Container = n.expand("%N")
		}
		return nil
	case sectionFleet:
		if l := legacy[o.Name]; l != "" {
			o.Name = l
		}
		return s.setFleet(o.Name, value)
	case sectionPlasmid:
		return s.setPlasmid(o.Name, value, ready)
	}
	return nil
}

func (s *Spec) setFleet(name, value string) error {
	switch name {
	case "Global":
		b, err := ParseBool(value)
		s.Global = b
		return err
	case "MachineID":
		id := strings.ToLower(value)
		if s.MachineID != "" && id != s.MachineID {
			return fmt.Errorf("%s was named before; a unit is on one machine", s.MachineID)
		}
		s.MachineID = id
	case "MachineOf":
		s.MachineOf = append(s.MachineOf, strings.Fields(value)...)
	case "Replaces":
		s.Replaces = append(s.Replaces, strings.Fields(value)...)
	case "Conflicts":
		for _, glob := range strings.Fields(value) {
			if _, err := path.Match(glob, "x"); err != nil {
				return fmt.Errorf("%q is no glob pattern: %w", glob, err)
			}
			s.Conflicts = append(s.Conflicts, glob)
		}
	case "MachineMetadata":
		words, err := SplitWords(value)
		if err != nil {
			return err
		}
		for _, w := range words {
			k, v, ok := strings.Cut(w, "=")
			if k, v = strings.TrimSpace(k), strings.TrimSpace(v); !ok || k == "" || v == "" {
				return fmt.Errorf("%q is not of the form key=value", w)
			} else {
				if s.Metadata == nil {
					s.Metadata = map[string][]string{}
				}
				s.Metadata[k] = append(s.Metadata[k], v)
			}
		}
	}
	return nil
}

func (s *Spec) setPlasmid(name, value string, ready *string) error {
	switch name {
	case "App":
		if value == "" || strings.ContainsAny(value, "/ \t") {
			return fmt.Errorf("%q is no app name", value)
		}
		s.App = value
	case "Container":
		s.Container = value
	case "Images":
		s.Images = append(s.Images, strings.Fields(value)...)
	case "Ready":
		*ready = value
	case "ReadyInterval":
		return parsePositive(value, &s.Ready.Interval)
	case "ReadyTimeout":
		return parsePositive(value, &s.Ready.Timeout)
	case "Register":
		key, v, ok := strings.Cut(value, " ")
		if v = strings.TrimSpace(v); !ok || v == "" || !strings.HasPrefix(key, "/") {
			return fmt.Errorf("%q is not of the form /key value", value)
		}
		if path.Clean(key) != key {
			return fmt.Errorf("key %q is not in its shortest form %q", key, path.Clean(key))
		}
		s.Register = append(s.Register, Registration{key, v})
	default:
		if known, err := s.setPlacing(name, value); known {
			return err
		}
		if known, err := s.setLife(name, value); known {
			return err
		}
		return fmt.Errorf("there is no such option in [X-Plasmid]%s", Suggest(name, plasmidOptions))
	}
	return nil
}

// check refuses what can't be meant together, as fleet does, and what lacks
// its other half.
func (s *Spec) check() error {
	type given struct {
		name string
		is   bool
	}
	id := given{"MachineID", s.MachineID != ""}
	of := given{"MachineOf", len(s.MachineOf) > 0}
	conflicts := given{"Conflicts", len(s.Conflicts) > 0}
	global := given{"Global", s.Global}
	replaces := given{"Replaces", len(s.Replaces) > 0}
	for _, pair := range [][2]given{
		{id, of}, {id, conflicts}, {id, global}, {id, replaces},
		{global, of}, {global, replaces}, {conflicts, replaces},
	} {
		if pair[0].is && pair[1].is {
			return fmt.Errorf("%s= and %s= can't be used together", pair[0].name, pair[1].name)
		}
	}
	for _, peer := range s.MachineOf {
		if g := matchAny(s.Conflicts, peer); g != "" {
			return fmt.Errorf("MachineOf=%s asks for the unit that Conflicts=%s keeps away", peer, g)
		}
		if slices.Contains(s.Replaces, peer) {
			return fmt.Errorf("MachineOf=%s asks for the unit that Replaces= drives away", peer)
		}
	}
	if len(s.Register) > 0 && s.App == "" {
		return errors.New("Register= needs App=: its keys are under /apps/<App>/")
	}
	return s.checkLife()
}

// ConflictsWith returns the glob by which the unit shares no machine with the
// named one, or empty. A unit never conflicts with itself.
func (s *Spec) ConflictsWith(name string) string {
	if name == s.Name {
		return ""
	}
	return matchAny(s.Conflicts, name)
}

func matchAny(globs []string, name string) string {
	for _, g := range globs {
		if ok, _ := path.Match(g, name); ok {
			return g
		}
	}
	return ""
}

// ParseBool reads the words that systemd takes for true and false, and fleet's
// t and f; nothing is false.
func ParseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "t", "true", "yes", "on":
		return true, nil
	case "", "0", "f", "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

func parsePositive(s string, d *time.Duration) error {
	v, err := time.ParseDuration(s)
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is no positive duration such as 500ms or 2s", s)
	}
	*d = v
	return nil
}
