package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

const envPrefix = "PLASMID_VAR_"

// given is a value that a variable was given, and where.
type given struct {
	value cty.Value
	expr  string // in place of value: text from outside, not yet of a type
	text  bool
	at    hcl.Range
}

// variables returns the object var. A value comes from the command line, else
// the environment, else the *.auto.hcl files beside the cluster file (the last
// one that names it), else the variable's default.
func (l *loader) variables(blocks []variableBlock, s Source) cty.Value {
	names := make([]string, len(blocks))
	for i, b := range blocks {
		names[i] = b.Name
	}
	values := map[string]given{}
	l.autoFiles(values, names)
	for _, e := range s.Env {
		if rest, ok := strings.CutPrefix(e, envPrefix); ok {
			name, value, _ := cutVar(rest)
			values[name] = given{expr: value, text: true, at: hcl.Range{Filename: envPrefix + name}}
		}
	}
	for _, v := range s.Vars {
		name, value, ok := cutVar(v)
		at := hcl.Range{Filename: "--var " + v}
		if !ok {
			l.problem(at, "Invalid variable", "--var takes name=value.")
			continue
		}
		if !slices.Contains(names, name) {
			l.problem(at, "Unknown variable", "The cluster file declares no variable %q.%s", name, nearest(name, names))
			continue
		}
		values[name] = given{expr: value, text: true, at: at}
	}
	out := map[string]cty.Value{}
	for _, b := range blocks {
		if _, twice := out[b.Name]; twice {
			l.problem(b.Range, "Duplicate variable", "Variable %q is declared twice.", b.Name)
			continue
		}
		out[b.Name] = l.variable(b, values)
	}
	return cty.ObjectVal(out)
}

func (l *loader) variable(b variableBlock, values map[string]given) cty.Value {
	unknown := cty.DynamicVal
	typ := cty.DynamicPseudoType
	if !isMissing(b.Type) {
		var diags hcl.Diagnostics
		if typ, diags = typeexpr.TypeConstraint(b.Type); diags.HasErrors() {
			l.diags = append(l.diags, diags...)
			return unknown
		}
	}
	g, ok := values[b.Name]
	if !ok {
		if isMissing(b.Default) {
			l.problem(b.Range, "Variable without a value", "Variable %q has no default; set it with --var %s=…, with %s%s in the environment, or in a file that ends in .auto.hcl beside the cluster file.", b.Name, b.Name, envPrefix, b.Name)
			return unknown
		}
		v, diags := b.Default.Value(&hcl.EvalContext{Functions: l.ctx.Functions})
		l.diags = append(l.diags, diags...)
		if diags.HasErrors() {
			return unknown
		}
		g = given{value: v, at: b.Default.Range()}
		if typ == cty.DynamicPseudoType {
			typ = v.Type()
		}
	} else if typ == cty.DynamicPseudoType && !isMissing(b.Default) {
		if v, diags := b.Default.Value(nil); !diags.HasErrors() && !v.IsNull() {
			typ = v.Type()
		}
	}
	if g.text {
		g.value = l.fromText(g, typ)
	}
	v, err := convert.Convert(g.value, typ)
	if err != nil {
		l.problem(g.at, "Wrong type", "Variable %q: %s.", b.Name, err)
		return unknown
	}
	return v
}

// fromText reads a value from the command line or the environment: a string as
// it is, anything richer as an HCL expression.
func (l *loader) fromText(g given, typ cty.Type) cty.Value {
	if typ == cty.DynamicPseudoType || typ.IsPrimitiveType() {
		return cty.StringVal(g.expr)
	}
	e, diags := hclsyntax.ParseExpression([]byte(g.expr), g.at.Filename, hcl.InitialPos)
	if !diags.HasErrors() {
		var v cty.Value
		if v, diags = e.Value(nil); !diags.HasErrors() {
			return v
		}
	}
	l.diags = append(l.diags, diags...)
	return cty.DynamicVal
}

// autoFiles reads name = value lines of *.auto.hcl, in the order of their names.
func (l *loader) autoFiles(values map[string]given, names []string) {
	files, err := filepath.Glob(filepath.Join(l.dir, "*.auto.hcl"))
	if err != nil {
		return // the pattern is ours and sound
	}
	slices.Sort(files)
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.IsDir() {
			continue
		}
		file, diags := l.parser.ParseHCLFile(f)
		l.diags = append(l.diags, diags...)
		if diags.HasErrors() {
			continue
		}
		attrs, diags := file.Body.JustAttributes()
		l.diags = append(l.diags, diags...)
		for name, a := range attrs {
			if !slices.Contains(names, name) {
				l.problem(a.NameRange, "Unknown variable", "The cluster file declares no variable %q.%s", name, nearest(name, names))
				continue
			}
			v, diags := a.Expr.Value(&hcl.EvalContext{Functions: l.ctx.Functions})
			l.diags = append(l.diags, diags...)
			values[name] = given{value: v, at: a.Expr.Range()}
		}
	}
}
