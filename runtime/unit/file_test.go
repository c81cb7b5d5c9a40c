package unit

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	text := "# a comment\n[Unit]\nDescription = Hello, world \n\n[Service]\nExecStart=/bin/sh -c \\\n  # left out\n  'echo \\\n  hi'\n; another\nEnvironment=\nEnvironment=A=1\n"
	f, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []Option{
		{"Unit", "Description", "Hello, world"},
		{"Service", "ExecStart", "/bin/sh -c  'echo  hi'"},
		{"Service", "Environment", ""},
		{"Service", "Environment", "A=1"},
	}
	if d := cmp.Diff(want, f.Options); d != "" {
		t.Error(d)
	}
	if f.Text() != text {
		t.Errorf("Text() = %q, not verbatim", f.Text())
	}
	if d := cmp.Diff([]string{"A=1"}, f.Values("Service", "Environment")); d != "" {
		t.Error("an empty assignment clears:", d)
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct {
		text, want string
	}{
		{"[Unit", `line 1: section header "[Unit" has no closing bracket or no name`},
		{"[]", `line 1: section header "[]" has no closing bracket or no name`},
		{"A=1", "line 1: option A= stands before any [section]"},
		{"[Unit]\nhello", `line 2: "hello" is neither a [section], an option=value nor a comment`},
		{"[Unit]\n\n=x", "line 3: an option without a name"},
	} {
		_, err := Parse(tt.text)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || err.Error() != tt.want {
			t.Errorf("Parse(%q): %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestNewReadsBack(t *testing.T) {
	options := []Option{
		{"Unit", "Description", "x"},
		{"Service", "ExecStart", "/bin/true"},
		{"Unit", "After", "docker.service"},
	}
	f, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	want := "[Unit]\nDescription=x\n\n[Service]\nExecStart=/bin/true\n\n[Unit]\nAfter=docker.service\n"
	if f.Text() != want {
		t.Errorf("text %q, want %q", f.Text(), want)
	}
	if d := cmp.Diff(options, f.Options); d != "" {
		t.Error(d)
	}
}

func TestNewRefusesInjection(t *testing.T) {
	for _, o := range []Option{
		{"Service", "ExecStart", "/bin/true\nExecStartPre=/bin/evil"},
		{"Service]\n[Evil", "A", "b"},
		{"Service", "A\nB", "c"},
		{"Service", "A=B", "c"},
		{"Service", "#A", "c"},
		{"", "A", "c"},
		{"Service", "A", `ends in \`},
	} {
		if f, err := New([]Option{o}); err == nil {
			t.Errorf("New(%q) made %q", o, f.Text())
		}
	}
	f, err := New([]Option{{"Service", "ExecStart", "/bin/a \\\n b"}})
	if err != nil || f.Options[0].Value != "/bin/a   b" {
		t.Errorf("a continued value: %v, %v", f, err)
	}
}

func TestHash(t *testing.T) {
	if h := Hash("abc"); h != "a9993e364706816aba3e25717850c26c9cd0d89d" {
		t.Error(h)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("[Unit]\nA=b \\\n c\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		again, err := New(file.Options)
		if err != nil {
			return // an option that only a text can hold, such as a value with an inner bracket
		}
		if d := cmp.Diff(file.Options, again.Options); d != "" {
			t.Errorf("options change when written and read: %s", d)
		}
	})
}
