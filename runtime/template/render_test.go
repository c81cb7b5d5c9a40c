package template

import (
	"strings"
	"testing"
)

var sample = Keys{
	"/elasticsearch/host": "10.0.0.5",
	"/app/server/5001":    "10.0.0.1:5001",
	"/app/server/5000":    "10.0.0.2:5000",
	"/app/name":           "hello",
	"/app/json":           `{"a": 1}`,
	"/app/list":           `["x", "y"]`,
	"/empty":              "",
}

func TestFunctions(t *testing.T) {
	t.Setenv("TEMPLATE_TEST", "set")
	for _, tt := range []struct{ text, want string }{
		{`{{exists "/app/name"}} {{exists "/app"}}`, "true false"},
		{`{{with get "/app/name"}}{{.Key}}={{.Value}}{{end}}`, "/app/name=hello"},
		{`{{range gets "/app/server/*"}}{{.Key}}={{.Value}};{{end}}`, "/app/server/5000=10.0.0.2:5000;/app/server/5001=10.0.0.1:5001;"},
		{`{{range gets "/nothing/*"}}x{{else}}none{{end}}`, "none"},
		{`{{getv "/app/name"}}`, "hello"},
		{`{{getv "app/name"}}`, "hello"},
		{`{{getv "/missing" "fallback"}}`, "fallback"},
		{`{{getv "/empty" "fallback"}}`, ""},
		{`{{getvs "/app/server/*"}}`, "[10.0.0.1:5001 10.0.0.2:5000]"},
		{`{{ls "/app"}} {{lsdir "/app"}} {{ls "/"}}`, "[json list name server] [server] [app elasticsearch empty]"},
		{`{{base "/a/b"}} {{dir "/a/b"}}`, "b /a"},
		{`{{join (split "a,b" ",") "-"}}`, "a-b"},
		{`{{replace "aaa" "a" "b" 2}}`, "bba"},
		{`{{contains "abc" "b"}} {{trimSuffix "a.conf" ".conf"}} {{toUpper "a"}} {{toLower "A"}}`, "true a A a"},
		{`{{with json (getv "/app/json")}}{{.a}}{{end}}`, "1"},
		{`{{range jsonArray (getv "/app/list")}}{{.}}{{end}}`, "xy"},
		{`{{with map "a" 1 "b" "c"}}{{.a}}{{.b}}{{end}}`, "1c"},
		{`{{base64Decode (base64Encode "héllo")}}`, "héllo"},
		{`{{parseBool "true"}} {{atoi "12"}}`, "true 12"},
		{`{{getenv "TEMPLATE_TEST"}} {{getenv "TEMPLATE_UNSET" "fallback"}}`, "set fallback"},
		{`{{fileExists "/"}} {{fileExists "/nonexistent"}}`, "true false"},
		{`{{range reverse (split "a b c" " ")}}{{.}}{{end}}`, "cba"},
		{`{{range sortByLength (split "ccc a bb" " ")}}{{.}},{{end}}`, "a,bb,ccc,"},
		{`{{range sortKVByLength (gets "/*")}}{{.Key}}{{end}}`, "/empty"},
		{`{{add 1 2}} {{sub 3 1}} {{mul 2 3}} {{div 7 2}} {{mod 7 2}}`, "3 2 6 3 1"},
		{`{{seq 1 3}} {{seq 2 1}}`, "[1 2 3] []"},
		{`{{.elasticsearch_host}}`, "10.0.0.5"},
		{`{{range .app_server}}{{.Value}} {{end}}`, "10.0.0.2:5000 10.0.0.1:5001 "},
	} {
		got, err := Render("t", tt.text, sample)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
}

func TestFunctionErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`{{getv "/missing"}}`, "key /missing does not exist"},
		{`{{get "/missing"}}`, "key /missing does not exist"},
		{`{{gets "/["}}`, "no glob pattern"},
		{`{{map "a"}}`, "pairs"},
		{`{{map 1 2}}`, "no string"},
		{`{{json "x"}}`, "invalid character"},
		{`{{div 1 0}}`, "divided by zero"},
		{`{{mod 1 0}}`, "divided by zero"},
		{`{{seq 1 99999999}}`, "more than"},
		{`{{reverse 1}}`, "neither"},
		{`{{.missing}}`, "no entry for key"},
		{`{{if}}`, "missing value"},
	} {
		if _, err := Render("t", tt.text, sample); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.text, err, tt.want)
		}
	}
}

func FuzzRender(f *testing.F) {
	f.Add(`{{range gets "/app/*"}}{{.Value}}{{end}}`)
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = Render("t", text, sample) // must not panic
	})
}
