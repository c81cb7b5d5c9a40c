package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// Source is where a cluster file and the values of its variables come from.
type Source struct {
	File string   // the cluster file
	Vars []string // name=value, as on the command line; they win over all others
	Env  []string // as os.Environ; PLASMID_VAR_<name>=value
}

// Error is what is wrong with a cluster file. Print shows it with the lines it
// points at.
type Error struct {
	Diagnostics hcl.Diagnostics
	files       map[string]*hcl.File
}

func (e *Error) Error() string { return e.Diagnostics.Error() }

// Print writes every problem with its file, line and source. width is of the
// terminal, 0 for none.
func (e *Error) Print(w io.Writer, width uint, color bool) error {
	return hcl.NewDiagnosticTextWriter(w, e.files, width, color).WriteDiagnostics(e.Diagnostics)
}

// Load reads and checks a cluster file. What is wrong with its contents is an
// *Error.
func Load(s Source) (*Cluster, error) {
	if _, err := os.Stat(s.File); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no cluster file %s; name one with --file, or copy the example cluster.hcl of Plasmid's source", s.File)
	}
	dir, err := filepath.Abs(filepath.Dir(s.File))
	if err != nil {
		return nil, err
	}
	l := &loader{parser: hclparse.NewParser(), dir: dir}
	c := l.load(s)
	if l.diags.HasErrors() {
		return nil, &Error{l.diags, l.parser.Files()}
	}
	return c, nil
}

type loader struct {
	parser *hclparse.Parser
	dir    string
	diags  hcl.Diagnostics
	ctx    *hcl.EvalContext
}

// problem adds an error that points at a range.
func (l *loader) problem(at hcl.Range, summary, format string, args ...any) {
	l.diags = append(l.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &at})
}

func (l *loader) load(s Source) *Cluster {
	file, diags := l.parser.ParseHCLFile(s.File)
	l.diags = append(l.diags, diags...)
	if diags.HasErrors() {
		return nil
	}
	// Variables and locals first: the rest is evaluated with them.
	var head struct {
		Variables []variableBlock `hcl:"variable,block"`
		Locals    []localsBlock   `hcl:"locals,block"`
		Rest      hcl.Body        `hcl:",remain"`
	}
	l.ctx = &hcl.EvalContext{Functions: functions(l.dir)}
	l.decode(file.Body, &head)
	if l.diags.HasErrors() {
		return nil
	}
	l.ctx.Variables = map[string]cty.Value{"var": l.variables(head.Variables, s)}
	l.ctx.Variables["local"] = cty.EmptyObjectVal
	if l.diags.HasErrors() {
		return nil
	}
	l.locals(head.Locals)
	if l.diags.HasErrors() {
		return nil
	}
	var f fileBlock
	l.decode(file.Body, &f)
	if l.diags.HasErrors() {
		return nil
	}
	if len(f.Clusters) != 1 {
		at := file.Body.MissingItemRange()
		if len(f.Clusters) > 1 {
			at = f.Clusters[1].Range
		}
		l.problem(at, "Not one cluster", "A cluster file has exactly one cluster block, this one has %d.", len(f.Clusters))
		return nil
	}
	return l.cluster(f.Clusters[0], f.Providers)
}

// decode reads a body and adds "did you mean" to what it does not know.
func (l *loader) decode(body hcl.Body, to any) {
	diags := gohcl.DecodeBody(body, l.ctx, to)
	schema, _ := gohcl.ImpliedBodySchema(to)
	var known []string
	for _, a := range schema.Attributes {
		known = append(known, a.Name)
	}
	for _, b := range schema.Blocks {
		known = append(known, b.Type)
	}
	l.diags = append(l.diags, didYouMean(diags, known, l.ctx)...)
}

// value evaluates an expression to a type. A missing attribute, or one that is
// null, gives false.
func (l *loader) value(e hcl.Expression, to any) bool {
	if isMissing(e) {
		return false
	}
	v, diags := e.Value(l.ctx)
	l.diags = append(l.diags, didYouMean(diags, nil, l.ctx)...)
	if diags.HasErrors() || v.IsNull() {
		return false
	}
	diags = gohcl.DecodeExpression(e, l.ctx, to)
	l.diags = append(l.diags, diags...)
	return !diags.HasErrors()
}

// required complains of an attribute that is not there: gohcl asks for no
// expression.
func (l *loader) required(e hcl.Expression, name string, at hcl.Range) {
	if isMissing(e) {
		l.problem(at, "Missing required argument", "The argument %q is required, but no definition was found.", name)
	}
}

// isMissing tells an attribute that is not there: gohcl puts an expression of
// its own in its place.
func isMissing(e hcl.Expression) bool {
	_, written := e.(hclsyntax.Expression)
	return !written
}

// locals evaluates local values, which may refer to each other in any order.
func (l *loader) locals(blocks []localsBlock) {
	todo := map[string]*hcl.Attribute{}
	for _, b := range blocks {
		for name, a := range b.Values {
			if other, ok := todo[name]; ok {
				l.problem(a.NameRange, "Duplicate local value", "local.%s was set in %s already.", name, other.Range)
				return
			}
			todo[name] = a
		}
	}
	done := map[string]cty.Value{}
	for len(todo) > 0 {
		progress := false
		for _, name := range slices.Sorted(maps.Keys(todo)) {
			if waitsFor(todo[name].Expr, todo) != "" {
				continue
			}
			v, diags := todo[name].Expr.Value(l.ctx)
			l.diags = append(l.diags, didYouMean(diags, nil, l.ctx)...)
			if diags.HasErrors() {
				return
			}
			done[name] = v
			delete(todo, name)
			l.ctx.Variables["local"] = cty.ObjectVal(done)
			progress = true
		}
		if !progress {
			name := slices.Sorted(maps.Keys(todo))[0]
			l.problem(todo[name].Range, "Local values in a ring", "local.%s needs local.%s, which needs it in turn.", name, waitsFor(todo[name].Expr, todo))
			return
		}
	}
}

// waitsFor names a local value among those still to do that e refers to.
func waitsFor(e hcl.Expression, todo map[string]*hcl.Attribute) string {
	for _, t := range e.Variables() {
		if t.RootName() != "local" || len(t) < 2 {
			continue
		}
		if attr, ok := t[1].(hcl.TraverseAttr); ok && todo[attr.Name] != nil {
			return attr.Name
		}
	}
	return ""
}

// LoadDefault reads a file with the process's own environment.
func LoadDefault(file string, vars []string) (*Cluster, error) {
	return Load(Source{File: file, Vars: vars, Env: os.Environ()})
}

func cutVar(s string) (name, value string, ok bool) { return strings.Cut(s, "=") }
