package template

import (
	"context"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"
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

// rendered are templates over the sample and what becomes of them: every
// function is in one.
var rendered = []struct{ text, want string }{
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
	{`{{ls "/app/name"}}`, "[name]"},
	{`{{Base "/app/server/5000"}}`, "5000"},
	{`{{range .app}}{{.Key}}={{.Value}} {{end}}`, "/app/json={\"a\": 1} /app/list=[\"x\", \"y\"] /app/name=hello /app/server= "},
	{`{{lookupIP "both.example."}} {{lookupIPV4 "both.example."}} {{lookupIPV6 "both.example."}}`, "[10.0.0.1 10.0.0.2 2001:db8::1] [10.0.0.1 10.0.0.2] [2001:db8::1]"},
	{`{{lookupIP "missing.example."}}{{len (lookupSRV "http" "tcp" "missing.example.")}}`, "[]0"},
	{`{{range lookupSRV "http" "tcp" "both.example."}}{{.Target}}:{{.Port}} {{end}}`, "a.example.:80 b.example.:81 "},
	{`{{gt datetime.Year 2000}}`, "true"},
}

func TestFunctions(t *testing.T) {
	t.Setenv("TEMPLATE_TEST", "set")
	serveDNS(t)
	for _, tt := range rendered {
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

func TestEveryFunctionIsTested(t *testing.T) {
	var all strings.Builder
	for _, tt := range rendered {
		all.WriteString(tt.text)
	}
	for name := range functions(nil, false) {
		if !regexp.MustCompile(`\b` + name + `\b`).MatchString(all.String()) {
			t.Errorf("%s is in no template of the tests", name)
		}
	}
}

func TestOnMissing(t *testing.T) {
	for _, tt := range []struct{ text, rule, want string }{
		{`x={{getv "/gone"}}{{with get "/gone"}}{{.Value}}{{end}};{{getv "/gone" "d"}}`, "empty", "x=;d"},
		{`{{range .gone}}{{.Value}}{{else}}none{{end}}[{{.gone}}]`, "empty", "none[]"},
		{`{{.not_asked_for}}`, "empty", "error"},
		{`{{getv "/gone"}}`, "error", "error"},
		{`{{range .gone}}{{end}}`, "error", "error"},
		{`{{getv "/gone"}}`, "keep", "before"},
		{`{{range .gone}}{{end}}`, "keep", "before"},
		{`{{getv "/gone" "default"}}`, "keep", "default"},
	} {
		f := newFixture(t, "before")
		f.mustApply(sample, true)
		f.write(f.Src, tt.text)
		f.Keys, f.OnMissing = []string{"/app", "/gone"}, tt.rule
		_, err := f.apply(sample)
		if want := tt.want; want == "error" {
			if err == nil || !strings.Contains(err.Error(), "on_missing") {
				t.Errorf("%s with %s: %v, want an error that names on_missing", tt.text, tt.rule, err)
			}
			f.want("before")
		} else if f.want(want); err != nil {
			t.Errorf("%s with %s: %v", tt.text, tt.rule, err)
		}
	}
}

func TestRunawayTemplate(t *testing.T) {
	_, err := Render("t", `{{range seq 1 999999}}{{range seq 1 999999}}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{{end}}{{end}}`, nil)
	if err == nil || !strings.Contains(err.Error(), "more than 64 MiB") {
		t.Errorf("a template without end: %v", err)
	}
}

// serveDNS has the process's lookups answered by a server of our own.
func serveDNS(t *testing.T) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	records := map[string][]string{
		"both.example.":            {"both.example. A 10.0.0.2", "both.example. A 10.0.0.1", "both.example. AAAA 2001:db8::1"},
		"_http._tcp.both.example.": {"_http._tcp.both.example. SRV 1 1 81 b.example.", "_http._tcp.both.example. SRV 1 1 80 a.example."},
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		rrs, ok := records[q.Question[0].Name]
		if !ok {
			a.Rcode = dns.RcodeNameError
		}
		for _, text := range rrs {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Error(err)
			} else if rr.Header().Rrtype == q.Question[0].Qtype {
				a.Answer = append(a.Answer, rr)
			}
		}
		_ = w.WriteMsg(a)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ActivateAndServe() }()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		_ = conn.Close()
		<-done
	})
}

func FuzzRender(f *testing.F) {
	f.Add(`{{range gets "/app/*"}}{{.Value}}{{end}}`)
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = Render("t", text, sample) // must not panic
	})
}
