package unit

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strings"
)

// Option is one assignment in a section. A name may occur more than once.
type Option struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Value   string `json:"value"`
}

// File is a parsed unit file.
type File struct {
	Options []Option

	text  string
	lines []int // of each option, from 1; nil for a file made by New
}

// SyntaxError says where a unit file can't be read.
type SyntaxError struct {
	Line    int // from 1
	Problem string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }

// Parse reads a unit file. Its errors are *SyntaxError.
//
// A line that ends in a backslash goes on in the next one, the backslash read
// as a space; comments between the two are left out, as systemd does it.
func Parse(text string) (*File, error) {
	f := &File{text: text}
	section := ""
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		if line == "" || isComment(line) {
			continue
		}
		start := i + 1
		for strings.HasSuffix(line, `\`) {
			line = strings.TrimSuffix(line, `\`)
			i++
			for i < len(lines) && isComment(strings.TrimSpace(lines[i])) {
				i++
			}
			if i >= len(lines) {
				break
			}
			line += " " + strings.TrimSpace(lines[i])
		}
		if strings.HasPrefix(line, "[") {
			if !strings.HasSuffix(line, "]") || len(line) < 3 {
				return nil, &SyntaxError{start, fmt.Sprintf("section header %q has no closing bracket or no name", line)}
			}
			section = line[1 : len(line)-1]
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		switch {
		case !ok:
			return nil, &SyntaxError{start, fmt.Sprintf("%q is neither a [section], an option=value nor a comment", line)}
		case name == "":
			return nil, &SyntaxError{start, "an option without a name"}
		case section == "":
			return nil, &SyntaxError{start, fmt.Sprintf("option %s= stands before any [section]", name)}
		}
		f.Options = append(f.Options, Option{section, name, strings.TrimSpace(value)})
		f.lines = append(f.lines, start)
	}
	return f, nil
}

func isComment(line string) bool {
	return strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";")
}

// New makes a file of options, as the fleet API sends them. Options of one
// section that do not stand together get a header each, so that their order
// is kept. It refuses what could not be read back as the same options.
func New(options []Option) (*File, error) {
	var b strings.Builder
	section := ""
	for i, o := range options {
		if o.Section == "" || strings.ContainsAny(o.Section, "[]\n") {
			return nil, fmt.Errorf("option %d: section name %q is empty or has a bracket or a line break", i+1, o.Section)
		}
		if o.Name == "" || strings.ContainsAny(o.Name, "=\n") || isComment(o.Name) || strings.HasPrefix(o.Name, "[") {
			return nil, fmt.Errorf("option %d: %q can't be an option's name", i+1, o.Name)
		}
		// A value may be continued; any other line break would begin an
		// option of the sender's choice in a section of its choice.
		value := strings.ReplaceAll(o.Value, "\\\n", " ")
		if strings.Contains(value, "\n") || strings.HasSuffix(value, `\`) {
			return nil, fmt.Errorf("option %d: the value of %s= has a line break that no backslash precedes, or ends in a backslash", i+1, o.Name)
		}
		if o.Section != section {
			if section != "" {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "[%s]\n", o.Section)
			section = o.Section
		}
		fmt.Fprintf(&b, "%s=%s\n", o.Name, value)
	}
	return Parse(b.String())
}

// Text is the unit file, verbatim as it was parsed.
func (f *File) Text() string { return f.text }

// Values returns all values of one option, in order. As in systemd an empty
// assignment clears those before it.
func (f *File) Values(section, name string) []string {
	var vs []string
	for _, o := range f.Options {
		if o.Section != section || o.Name != name {
			continue
		}
		if o.Value == "" {
			vs = nil
			continue
		}
		vs = append(vs, o.Value)
	}
	return vs
}

// Line returns the line of option i, or 0 when the file has none.
func (f *File) Line(i int) int {
	if i < len(f.lines) {
		return f.lines[i]
	}
	return 0
}

// Hash names a unit file's text, as fleet does: its SHA-1 in hex.
func Hash(text string) string {
	sum := sha1.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}
