// Package app takes an app from its directory to a cluster: it builds the
// app's images, hands them to machines and gives the cluster its units.
package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// App is an app directory, read and checked.
type App struct {
	Name   string
	Dir    string
	Images []Image
	Units  []Unit // in the order in which they are started
	Front  *Front
	// Keys are set in etcd below /apps/<Name>; each starts with a slash.
	Keys map[string]string
	// Certificates are made once, and given to the app's containers.
	Certificates []string
	// Secrets are those that an operator has to set before it is deployed.
	Secrets []Secret
}

// Secret is one that an app's containers can't do without.
type Secret struct {
	Name        string
	Description string
	Range       hcl.Range // where app.hcl asks for it
}

// Image is built from a directory with a Dockerfile.
type Image struct {
	Name     string
	Context  string   // directory
	Programs []string // of Plasmid's own, put into the context
	Files    []string // of the app's, put into the context, for what images share
}

// Unit is a unit file with its instances.
type Unit struct {
	Name  string // of the file: a template's has an @
	File  string
	Text  string
	Names []string // of what runs: the unit itself, or the template's instances
	After []string // units, by the names of their files, that must be ready before
	// Metadata is what a machine must have to run it, beside what the file says.
	Metadata map[string]string
	// Timeout is how long one may take to be ready, the fetching of its image
	// included. A new version that takes longer is taken back.
	Timeout time.Duration
}

// DefaultTimeout is a unit's Timeout when app.hcl does not say.
const DefaultTimeout = 5 * time.Minute

// Front is where users go.
type Front struct {
	Unit string `hcl:"unit"`
	Port int    `hcl:"port"`
	Path string `hcl:"path,optional"` // empty: /
}

type fileBlock struct {
	Variables []variableBlock `hcl:"variable,block"`
	App       *appBlock       `hcl:"app,block"`
}

type variableBlock struct {
	Name        string    `hcl:"name,label"`
	Description string    `hcl:"description,optional"`
	Default     cty.Value `hcl:"default,optional"`
	Range       hcl.Range `hcl:",def_range"`
}

type appBlock struct {
	Name         string             `hcl:"name,label"`
	Keys         map[string]string  `hcl:"keys,optional"`
	Certificates []certificateBlock `hcl:"certificate,block"`
	Secrets      []secretBlock      `hcl:"secret,block"`
	Images       []imageBlock       `hcl:"image,block"`
	Units        []unitBlock        `hcl:"unit,block"`
	Front        *Front             `hcl:"front,block"`
	Range        hcl.Range          `hcl:",def_range"`
}

type certificateBlock struct {
	Name  string    `hcl:"name,label"`
	Range hcl.Range `hcl:",def_range"`
}

type secretBlock struct {
	Name        string    `hcl:"name,label"`
	Description string    `hcl:"description,optional"`
	Range       hcl.Range `hcl:",def_range"`
}

type imageBlock struct {
	Name     string    `hcl:"name,label"`
	Context  string    `hcl:"context"`
	Programs []string  `hcl:"programs,optional"`
	Files    []string  `hcl:"files,optional"`
	Range    hcl.Range `hcl:",def_range"`
}

type unitBlock struct {
	Name     string            `hcl:"name,label"`
	File     string            `hcl:"file"`
	Count    *int              `hcl:"count,optional"`
	After    []string          `hcl:"after,optional"`
	Metadata map[string]string `hcl:"metadata,optional"`
	Timeout  string            `hcl:"timeout,optional"`
	Range    hcl.Range         `hcl:",def_range"`
}

// Error is what is wrong with an app.hcl.
type Error struct {
	Diagnostics hcl.Diagnostics
	Files       map[string]*hcl.File
}

func (e *Error) Error() string { return e.Diagnostics.Error() }

const maxInstances = 1000

type loader struct {
	app   *App
	diags hcl.Diagnostics
}

func (l *loader) problem(at hcl.Range, summary, format string, args ...any) {
	l.diags = append(l.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &at})
}

// Load reads <dir>/app.hcl. vars are the values that the cluster file gives
// the app's variables. What is wrong with the contents is an *Error.
func Load(dir string, vars map[string]any) (*App, error) {
	parser := hclparse.NewParser()
	file, diags := parser.ParseHCLFile(filepath.Join(dir, "app.hcl"))
	l := &loader{app: &App{Dir: dir}, diags: diags}
	if !diags.HasErrors() {
		l.load(file.Body, vars)
	}
	if l.diags.HasErrors() {
		return nil, &Error{l.diags, parser.Files()}
	}
	return l.app, nil
}

func (l *loader) load(body hcl.Body, vars map[string]any) {
	var head struct {
		Variables []variableBlock `hcl:"variable,block"`
		Rest      hcl.Body        `hcl:",remain"`
	}
	if l.diags = append(l.diags, gohcl.DecodeBody(body, nil, &head)...); l.diags.HasErrors() {
		return
	}
	ctx, err := variables(head.Variables, vars)
	if err != nil {
		l.problem(body.MissingItemRange(), "Wrong variable", "%s.", err)
		return
	}
	var f fileBlock
	if l.diags = append(l.diags, gohcl.DecodeBody(body, ctx, &f)...); l.diags.HasErrors() {
		return
	}
	if f.App == nil {
		l.problem(body.MissingItemRange(), "No app", "The file has no app block.")
		return
	}
	l.app.Name = f.App.Name
	l.app.Front = f.App.Front
	l.app.Keys = f.App.Keys
	for _, k := range slices.Sorted(maps.Keys(f.App.Keys)) {
		if !strings.HasPrefix(k, "/") || path.Clean(k) != k || k == "/" {
			l.problem(f.App.Range, "Invalid key", "keys has %q; a key is a path such as /config/rate.", k)
		}
	}
	for _, c := range f.App.Certificates {
		l.certificate(c)
	}
	for _, s := range f.App.Secrets {
		l.secret(s)
	}
	for _, i := range f.App.Images {
		l.image(i)
	}
	for _, u := range f.App.Units {
		l.unit(u)
	}
	l.order(f.App)
}

// variables gives every variable its value from the cluster file, or its
// default.
func variables(blocks []variableBlock, vars map[string]any) (*hcl.EvalContext, error) {
	out := map[string]cty.Value{}
	for _, b := range blocks {
		out[b.Name] = b.Default
		v, ok := vars[b.Name]
		if !ok {
			if b.Default.IsNull() {
				return nil, fmt.Errorf("variable %q has no default and no value in the cluster file", b.Name)
			}
			continue
		}
		var err error
		if out[b.Name], err = value(v); err != nil {
			return nil, fmt.Errorf("variable %q: %w", b.Name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if _, ok := out[name]; !ok {
			return nil, fmt.Errorf("the cluster file sets %q, which the app does not declare", name)
		}
	}
	return &hcl.EvalContext{Variables: map[string]cty.Value{"var": cty.ObjectVal(out)}}, nil
}

// value takes any value that a cluster file can give, objects and lists as well.
func value(v any) (cty.Value, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return cty.NilVal, err
	}
	typ, err := ctyjson.ImpliedType(data)
	if err != nil {
		return cty.NilVal, err
	}
	return ctyjson.Unmarshal(data, typ)
}

// plainName is what images and certificates are called: their names become
// parts of file names and references.
var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

func (l *loader) certificate(b certificateBlock) {
	if !plainName.MatchString(b.Name) {
		l.problem(b.Range, "Invalid name", "A certificate's name has lower-case letters, digits and hyphens.")
	}
	if slices.Contains(l.app.Certificates, b.Name) {
		l.problem(b.Range, "Duplicate certificate", "There is another certificate %q.", b.Name)
	}
	l.app.Certificates = append(l.app.Certificates, b.Name)
}

func (l *loader) secret(b secretBlock) {
	if err := store.CheckSecret(l.app.Name, b.Name); err != nil {
		l.problem(b.Range, "Invalid secret", "%s.", err)
	}
	for _, c := range l.app.Certificates {
		if b.Name == c+".crt" || b.Name == c+".key" {
			l.problem(b.Range, "Made by itself", "%s is of certificate %q, which a deployment makes; leave the secret out.", b.Name, c)
		}
	}
	if slices.ContainsFunc(l.app.Secrets, func(o Secret) bool { return o.Name == b.Name }) {
		l.problem(b.Range, "Duplicate secret", "There is another secret %q.", b.Name)
	}
	l.app.Secrets = append(l.app.Secrets, Secret(b))
}

func (l *loader) image(b imageBlock) {
	i := Image{Name: b.Name, Context: filepath.Join(l.app.Dir, b.Context), Programs: b.Programs}
	if _, err := os.Stat(filepath.Join(i.Context, "Dockerfile")); err != nil {
		l.problem(b.Range, "No Dockerfile", "%s has no Dockerfile; the path starts at the directory of app.hcl.", i.Context)
	}
	if !plainName.MatchString(b.Name) {
		l.problem(b.Range, "Invalid name", "An image's name has lower-case letters, digits and hyphens.")
	}
	for _, f := range b.Files {
		f = filepath.Join(l.app.Dir, f)
		if info, err := os.Stat(f); err != nil || !info.Mode().IsRegular() {
			l.problem(b.Range, "No such file", "files names %s, which is no file; the path starts at the directory of app.hcl.", f)
		}
		i.Files = append(i.Files, f)
	}
	if slices.ContainsFunc(l.app.Images, func(o Image) bool { return o.Name == b.Name }) {
		l.problem(b.Range, "Duplicate image", "There is another image %q.", b.Name)
	}
	l.app.Images = append(l.app.Images, i)
}

func (l *loader) unit(b unitBlock) {
	u := Unit{Name: b.Name, File: filepath.Join(l.app.Dir, b.File), After: b.After, Metadata: b.Metadata}
	n, err := unit.ParseName(b.Name)
	if err != nil {
		l.problem(b.Range, "Invalid unit", "%s.", err)
		return
	}
	u.Timeout = DefaultTimeout
	if b.Timeout != "" {
		if u.Timeout, err = time.ParseDuration(b.Timeout); err != nil || u.Timeout <= 0 {
			l.problem(b.Range, "Invalid timeout", "timeout is %q; it is a duration such as 90s or 5m.", b.Timeout)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(b.Metadata)) {
		if v := b.Metadata[k]; k == "" || v == "" || strings.ContainsAny(k+v, "=\n \"") {
			l.problem(b.Range, "Invalid metadata", "%q = %q: keys and values are words without spaces, quotes and equals signs.", k, v)
		}
	}
	text, err := os.ReadFile(u.File)
	if err != nil {
		l.problem(b.Range, "No unit file", "%s.", err)
		return
	}
	u.Text = string(text)
	switch {
	case n.Template && b.Count == nil:
		l.problem(b.Range, "No count", "%s is a template: say with count how many instances run.", b.Name)
	case !n.Template && b.Count != nil:
		l.problem(b.Range, "Count of a plain unit", "Only templates, such as %s@.%s, have instances.", n.Prefix, n.Type)
	case n.Template && (*b.Count < 0 || *b.Count > maxInstances):
		l.problem(b.Range, "Invalid count", "count is %d; it is from 0 to %d.", *b.Count, maxInstances)
	case n.Template:
		for i := range *b.Count {
			u.Names = append(u.Names, n.InstanceOf(fmt.Sprint(i+1)))
		}
	default:
		u.Names = []string{b.Name}
	}
	l.app.Units = append(l.app.Units, u)
}

// order sorts the units so that each comes after those it names.
func (l *loader) order(b *appBlock) {
	at := map[string]hcl.Range{}
	for _, u := range b.Units {
		if _, twice := at[u.Name]; twice {
			l.problem(u.Range, "Duplicate unit", "There is another unit %q.", u.Name)
		}
		at[u.Name] = u.Range
	}
	var sorted []Unit
	done := map[string]bool{}
	todo := l.app.Units
	for len(todo) > 0 {
		var waiting []Unit
		for _, u := range todo {
			if slices.ContainsFunc(u.After, func(a string) bool { return !done[a] }) {
				waiting = append(waiting, u)
				continue
			}
			done[u.Name] = true
			sorted = append(sorted, u)
		}
		if len(waiting) == len(todo) {
			l.problem(at[todo[0].Name], "Order not clear", "%s waits for %s, which is not a unit of the app or waits for it in turn.", todo[0].Name, strings.Join(todo[0].After, ", "))
			return
		}
		todo = waiting
	}
	l.app.Units = sorted
	if f := l.app.Front; f != nil && !done[f.Unit] {
		l.problem(b.Range, "No such front", "front names %q, which is no unit of the app.", f.Unit)
	}
}

// variable is the environment variable that has an image's reference in units.
func (i Image) variable() string {
	return "IMAGE_" + strings.ToUpper(strings.ReplaceAll(i.Name, "-", "_"))
}

// text is a unit's file with what the app adds: the images it names, pinned by
// their digests, the app itself, and which machines it may be on.
func (a *App) text(u Unit, refs map[string]string) string {
	var b strings.Builder
	b.WriteString(strings.TrimRight(u.Text, "\n") + "\n")
	var images []string
	for _, i := range a.Images {
		v := i.variable()
		if strings.Contains(u.Text, "${"+v+"}") || strings.Contains(u.Text, "$"+v) {
			fmt.Fprintf(&b, "\n[Service]\nEnvironment=%s=%s\n", v, refs[i.Name])
			images = append(images, refs[i.Name])
		}
	}
	fmt.Fprintf(&b, "\n[X-Plasmid]\nApp=%s\n", a.Name)
	if len(images) > 0 {
		fmt.Fprintf(&b, "Images=%s\n", strings.Join(images, " "))
	}
	if len(u.Metadata) > 0 {
		b.WriteString("\n[X-Fleet]\n")
	}
	for _, k := range slices.Sorted(maps.Keys(u.Metadata)) {
		fmt.Fprintf(&b, "MachineMetadata=%s=%s\n", k, u.Metadata[k])
	}
	return b.String()
}
