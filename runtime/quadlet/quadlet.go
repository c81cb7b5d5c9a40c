// Package quadlet makes units that run containers with Docker out of Quadlet's
// .container files, whose syntax podman-systemd.unit(5) describes. It is pure:
// text in, text out.
//
// What Docker can't do is refused, never left out: a unit that was to be
// read-only or in a user namespace must not run without.
package quadlet

import (
	"fmt"
	"slices"
	"strings"

	"plasmid/runtime/unit"
)

// Ext is the ending of a .container file's name; the unit ends in .service.
const Ext = ".container"

const (
	section = "Container"
	docker  = "/usr/bin/docker"
	// mark begins the first line of what is generated, before the hash of
	// what it was generated from.
	mark = "# Generated from "
)

// Is reports whether a unit file is a Quadlet.
func Is(f *unit.File) bool {
	return slices.ContainsFunc(f.Options, func(o unit.Option) bool { return o.Section == section })
}

// Unit returns the text that systemd gets for a unit: its own, or that of a
// Docker-run service if it is a Quadlet. Its errors name the line and the key.
func Unit(name, text string) (string, error) {
	f, err := unit.Parse(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if !Is(f) {
		return text, nil
	}
	n, err := unit.ParseName(name)
	if err != nil {
		return "", err
	}
	if n.Type != "service" {
		return "", fmt.Errorf("%s has a section [%s], which only a service can have", name, section)
	}
	g := &generator{file: f, name: n}
	out, err := g.generate(unit.Hash(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// Same reports whether what is installed was made of text. What another
// version of this program has made of it counts: it is no reason to restart.
func Same(installed, text string) bool {
	if installed == text {
		return true
	}
	hash, ok := strings.CutPrefix(installed, mark)
	return ok && strings.HasPrefix(hash, unit.Hash(text))
}

// removeLeft, followed by a name, removes the container of that name. There is one
// only after an unclean end, and to have Docker's client find none takes a third of
// the time in which it runs one, so it is asked only if there is such a file of
// Docker's, or if the files are not where they are by default.
const removeLeft = `/bin/sh -c 'cd /var/lib/docker/containers 2>/dev/null && ! grep -Fqs "\\"Name\\":\\"/$$0\\"" */config.v2.json || exec ` + docker + ` rm --force "$$0"' `

type generator struct {
	file *unit.File
	name unit.Name
}

// fault is an error about one option.
func (g *generator) fault(i int, format string, args ...any) error {
	return fmt.Errorf("line %d: %s=%s", g.file.Line(i), g.file.Options[i].Name, fmt.Sprintf(format, args...))
}

func (g *generator) generate(hash string) (string, error) {
	if err := g.check(); err != nil {
		return "", err
	}
	run, err := g.run()
	if err != nil {
		return "", err
	}
	container := quote(g.container())
	service := []string{
		"ExecStartPre=-" + removeLeft + container,
		"ExecStart=" + docker + " run " + run,
		"ExecStop=" + docker + " stop " + container,
		"ExecStopPost=-" + removeLeft + container,
		"SyslogIdentifier=%N",
	}
	if cmd := g.last("ReloadCmd"); cmd != "" {
		service = append(service, "ExecReload="+docker+" exec "+container+" "+cmd)
	}
	if sig := g.last("ReloadSignal"); sig != "" {
		service = append(service, "ExecReload="+docker+" kill --signal "+quote(sig)+" "+container)
	}
	if len(g.file.Values("Service", "Type")) == 0 {
		// Active as soon as the client runs: the image may take its time.
		service = append(service, "Type=exec")
	}
	if len(g.file.Values("Service", "KillMode")) == 0 {
		// The client must not be killed beside docker stop.
		service = append(service, "KillMode=mixed")
	}
	if len(g.file.Values("Service", "SuccessExitStatus")) == 0 {
		// What docker run exits with when the container's program was ended
		// by docker stop.
		service = append(service, "SuccessExitStatus=143")
	}
	return g.write(hash, service), nil
}

// container is the container's name.
func (g *generator) container() string {
	if n := g.last("ContainerName"); n != "" {
		return n
	}
	if g.name.Instance != "" || g.name.Template {
		return "%p-%i" // Docker's names have no @
	}
	return "%N"
}

// last is the value of a key that counts once.
func (g *generator) last(key string) string {
	vs := g.file.Values(section, key)
	if len(vs) == 0 {
		return ""
	}
	return vs[len(vs)-1]
}

// check refuses what can't be honoured.
func (g *generator) check() error {
	for i, o := range g.file.Options {
		switch o.Section {
		case "Service":
			switch o.Name {
			case "ExecStart", "ExecStop":
				return g.fault(i, " is made from [%s]; write Exec= there", section)
			case "Type":
				if o.Value != "exec" && o.Value != "simple" && o.Value != "oneshot" {
					return g.fault(i, "%s can't be had with Docker; leave it out, or use oneshot", o.Value)
				}
			case "KillMode":
				if o.Value == "process" || o.Value == "none" {
					return g.fault(i, "%s would leave the container; leave it out", o.Value)
				}
			}
		case "X-Plasmid":
			if o.Name == "Container" {
				return g.fault(i, "%s is ContainerName= of [%s] in a Quadlet", o.Value, section)
			}
		case "Quadlet":
			if o.Name != "DefaultDependencies" {
				return g.fault(i, " there is no such key in [Quadlet]; it has DefaultDependencies=")
			}
		case "Pod", "Kube", "Network", "Volume", "Build", "Image":
			return fmt.Errorf("line %d: section [%s] belongs into a file of its own, which Plasmid does not read; it reads .container files", g.file.Line(i), o.Section)
		case section:
			if err := g.checkKey(i, o); err != nil {
				return err
			}
		}
	}
	if g.last("Image") == "" {
		return fmt.Errorf("[%s] has no Image=", section)
	}
	for _, t := range []string{".image", ".build"} {
		if strings.HasSuffix(g.last("Image"), t) {
			return fmt.Errorf("Image=%s is another Quadlet file; give the image's name", g.last("Image"))
		}
	}
	return nil
}

func (g *generator) checkKey(i int, o unit.Option) error {
	r, known := keys[o.Name]
	switch {
	case !known:
		return g.fault(i, " there is no such key in [%s]%s", section, unit.Suggest(o.Name, Keys()))
	case r.kind == refuse:
		return g.fault(i, "%s %s", o.Value, r.why)
	case o.Value == "":
		return nil // clears those before it
	case r.check != nil:
		if err := r.check(o.Value); err != nil {
			return g.fault(i, "%s", " "+err.Error())
		}
	}
	switch o.Name {
	case "HealthOnFailure":
		if o.Value != "none" {
			return g.fault(i, "%s is not known to Docker; a unit whose check fails is not ready", o.Value)
		}
	case "Notify":
		if o.Value != "healthy" && o.Value != "false" && o.Value != "no" {
			return g.fault(i, "%s: Docker passes no notification on; use healthy, or Ready= in [X-Plasmid]", o.Value)
		}
	case "Unmask":
		if o.Value != "ALL" {
			return g.fault(i, "%s is Podman's; Docker knows ALL", o.Value)
		}
	}
	return nil
}

// Keys are those that [Container] has, whether they can be honoured or not.
func Keys() []string {
	var names []string
	for k := range keys {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// run makes the arguments of docker run. They are in the order of the file, so
// that one sees where they come from; what counts once stands where it was
// said last.
func (g *generator) run() (string, error) {
	args := []string{"--name", g.container(), "--rm"}
	add := func(as ...string) { args = append(args, as...) }
	pull := false
	for _, i := range g.effective() {
		o := g.file.Options[i]
		r := keys[o.Name]
		pull = pull || o.Name == "Pull"
		switch r.kind {
		case single, each:
			add(r.flag, o.Value)
		case option:
			add("--security-opt", r.flag+o.Value)
		case truth:
			yes, err := unit.ParseBool(o.Value)
			if err != nil {
				return "", g.fault(i, " %v", err)
			}
			if yes {
				add(r.flag)
			}
		case words:
			ws, err := unit.SplitWords(o.Value)
			if err != nil {
				return "", g.fault(i, " %v", err)
			}
			for _, w := range ws {
				add(r.flag, w)
			}
		case own:
			more, err := g.own(i, o)
			if err != nil {
				return "", err
			}
			add(more...)
		}
	}
	if !pull {
		add("--pull", "missing")
	}
	tmpfs, err := g.tmpfs()
	if err != nil {
		return "", fmt.Errorf("ReadOnlyTmpfs=: %w", err)
	}
	if tmpfs {
		add("--tmpfs", "/run", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp")
	}
	for i, a := range args {
		args[i] = quote(a)
	}
	line := strings.Join(append(args, quote(g.last("Image"))), " ")
	if cmd := g.last("Exec"); cmd != "" {
		line += " " + cmd // a command line already
	}
	return line, nil
}

// effective are the places of the options that count: without those that an
// empty assignment clears, and those that a later one outdoes.
func (g *generator) effective() []int {
	var out []int
	for i, o := range g.file.Options {
		if o.Section != section {
			continue
		}
		kind := keys[o.Name].kind
		if o.Value == "" || kind != each && kind != words {
			out = slices.DeleteFunc(out, func(j int) bool { return g.file.Options[j].Name == o.Name })
		}
		if o.Value != "" {
			out = append(out, i)
		}
	}
	return out
}

// own makes the arguments of a key that is like no other.
func (g *generator) own(i int, o unit.Option) ([]string, error) {
	boolean := func() (bool, error) {
		yes, err := unit.ParseBool(o.Value)
		if err != nil {
			err = g.fault(i, " %v", err)
		}
		return yes, err
	}
	switch o.Name {
	case "NoNewPrivileges":
		if yes, err := boolean(); err != nil || !yes {
			return nil, err
		}
		return []string{"--security-opt", "no-new-privileges"}, nil
	case "SecurityLabelDisable":
		if yes, err := boolean(); err != nil || !yes {
			return nil, err
		}
		return []string{"--security-opt", "label=disable"}, nil
	case "Unmask":
		return []string{"--security-opt", "systempaths=unconfined"}, nil
	case "StopTimeout":
		return []string{"--stop-timeout", o.Value}, nil
	case "User":
		if group := g.last("Group"); group != "" {
			return []string{"--user", o.Value + ":" + group}, nil
		}
		return []string{"--user", o.Value}, nil
	case "Group":
		if g.last("User") == "" {
			return nil, g.fault(i, "%s needs User=: Docker sets both together", o.Value)
		}
	}
	return nil, nil
}

// tmpfs says whether a container that is read-only gets writable directories
// in memory, which Podman gives it and Docker does not.
func (g *generator) tmpfs() (bool, error) {
	readOnly, err := unit.ParseBool(g.last("ReadOnly"))
	if err != nil || !readOnly {
		return false, err
	}
	if v := g.last("ReadOnlyTmpfs"); v != "" {
		return unit.ParseBool(v)
	}
	return true, nil
}

// quote makes one word of a systemd command line. Specifiers and variables are
// left to systemd.
func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// write puts the unit together.
func (g *generator) write(hash string, service []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n", mark, hash)
	bySection := map[string][]string{}
	var order []string
	add := func(s string, lines ...string) {
		if bySection[s] == nil {
			order = append(order, s)
		}
		bySection[s] = append(bySection[s], lines...)
	}
	add("Unit", g.dependencies()...)
	for _, o := range g.file.Options {
		if o.Section != section && o.Section != "Quadlet" {
			if o.Section == "Service" && bySection["Service"] == nil {
				add("Service", service...)
			}
			add(o.Section, o.Name+"="+o.Value)
		}
	}
	if bySection["Service"] == nil {
		add("Service", service...)
	}
	// What was made has no [Container] any more, and Docker is asked for it.
	add("X-Plasmid", "Container="+g.container())
	for _, s := range order {
		fmt.Fprintf(&b, "\n[%s]\n%s\n", s, strings.Join(bySection[s], "\n"))
	}
	return b.String()
}

// dependencies are those that every container has.
func (g *generator) dependencies() []string {
	deps := []string{"Requires=docker.service", "After=docker.service"}
	for _, v := range g.file.Values("Quadlet", "DefaultDependencies") {
		if yes, err := unit.ParseBool(v); err == nil && !yes {
			return deps
		}
	}
	return append(deps, "Wants=network-online.target", "After=network-online.target")
}
