package unit

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseName(t *testing.T) {
	for _, tt := range []struct {
		in       string
		want     Name
		template string
	}{
		{"a.service", Name{Full: "a.service", Prefix: "a", Type: "service"}, ""},
		{"a@.service", Name{Full: "a@.service", Prefix: "a", Type: "service", Template: true}, ""},
		{"a@1.service", Name{Full: "a@1.service", Prefix: "a", Instance: "1", Type: "service"}, "a@.service"},
		{"a.b@c.d.timer", Name{Full: "a.b@c.d.timer", Prefix: "a.b", Instance: "c.d", Type: "timer"}, "a.b@.timer"},
	} {
		n, err := ParseName(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
		}
		if d := cmp.Diff(tt.want, n); d != "" {
			t.Errorf("%s: %s", tt.in, d)
		}
		if n.TemplateOf() != tt.template {
			t.Errorf("%s: template %q, want %q", tt.in, n.TemplateOf(), tt.template)
		}
	}
}

func TestParseNameErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "a unit needs a name",
		"hello":                               `unit name "hello" has no type; did you mean "hello.service"?`,
		"hello.srv":                           `"srv" is no unit type`,
		"../etc/passwd.service":               `character '/' is not allowed`,
		"a b.service":                         `character ' ' is not allowed`,
		".service":                            "has nothing before its",
		"@1.service":                          "has nothing before its",
		"a@1.slice":                           "can't have instances",
		strings.Repeat("a", 250) + ".service": "at most 255",
	} {
		if _, err := ParseName(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseName(%q): %v, want %s", in, err, want)
		}
	}
}

func TestExpand(t *testing.T) {
	n, _ := ParseName("app@7.service")
	if got := n.expand("%n %N %p %i %% %%i %H"); got != "app@7.service app@7 app 7 % %i %H" {
		t.Error(got)
	}
}

func TestTypes(t *testing.T) {
	for _, typ := range Types {
		n, err := ParseName("a." + typ)
		if err != nil {
			t.Error(err)
		}
		err = n.Runnable()
		if _, is := gone[typ]; is != (err != nil) {
			t.Errorf("%s runs: %v", n.Full, err)
		}
		_, err = ParseName("a@1." + typ)
		if is := slices.Contains(templated, typ); is != (err == nil) {
			t.Errorf("instance of a %s: %v", typ, err)
		}
	}
	if len(Types) != 13 {
		t.Errorf("%d types", len(Types))
	}
}

func TestTemplateDoesNotRun(t *testing.T) {
	n, err := ParseName("a@.timer")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Runnable(); err == nil || !strings.Contains(err.Error(), "name an instance, such as a@1.timer") {
		t.Error(err)
	}
}
