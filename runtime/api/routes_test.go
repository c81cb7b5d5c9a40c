package api

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plasmid/runtime/store"
)

// every returns all routes, those that are optional too.
func every() []route {
	s := &server{Config{Metrics: http.NotFoundHandler(), Blobs: http.NotFoundHandler()}}
	return s.routes()
}

// TestOpenAPI holds openapi.json against the routes, both ways.
func TestOpenAPI(t *testing.T) {
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string                      `json:"operationId"`
			Summary     string                      `json:"summary"`
			Role        Role                        `json:"x-plasmid-role"`
			Parameters  []struct{ Name, In string } `json:"parameters"`
			Responses   map[string]json.RawMessage  `json:"responses"`
		} `json:"paths"`
		Components struct {
			Schemas   map[string]json.RawMessage `json:"schemas"`
			Responses map[string]json.RawMessage `json:"responses"`
		} `json:"components"`
	}
	if err := json.Unmarshal(openAPIDocument, &doc); err != nil {
		t.Fatal(err)
	}
	described, ids := map[string]Role{}, map[string]bool{}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			key := strings.ToUpper(method) + " " + path
			described[key] = op.Role
			if op.Summary == "" || len(op.Responses) == 0 || op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s: summary, responses or an ID of its own are missing", key)
			}
			ids[op.OperationID] = true
			var params []string
			for _, p := range op.Parameters {
				if p.In == "path" {
					params = append(params, p.Name)
				}
			}
			var inPath []string
			for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
				inPath = append(inPath, m[1])
			}
			if !slices.Equal(params, inPath) {
				t.Errorf("%s: describes the parameters %v", key, params)
			}
		}
	}
	have := map[string]Role{}
	for _, rt := range every() {
		have[rt.method+" "+rt.path] = rt.least
	}
	if d := cmp.Diff(have, described); d != "" {
		t.Errorf("routes (-) and openapi.json (+) differ:\n%s", d)
	}
	for _, m := range regexp.MustCompile(`"#/components/(\w+)/(\w+)"`).FindAllStringSubmatch(string(openAPIDocument), -1) {
		if m[1] == "schemas" && doc.Components.Schemas[m[2]] == nil || m[1] == "responses" && doc.Components.Responses[m[2]] == nil {
			t.Errorf("%s is referred to and is not there", m[0])
		}
	}
}

// TestAPIPage holds the table of docs/api.md against the routes; fleet's are
// in it under their first prefix.
func TestAPIPage(t *testing.T) {
	data, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]Role{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]+ /[^`]*)` \\| ([a-z]+) \\|").FindAllStringSubmatch(string(data), -1) {
		documented[m[1]] = Role(m[2])
	}
	have := map[string]Role{}
	for _, rt := range every() {
		if !strings.HasPrefix(rt.path, fleetPrefixes[1]) && !strings.HasPrefix(rt.path, fleetPrefixes[2]) {
			have[rt.method+" "+rt.path] = rt.least
		}
	}
	if d := cmp.Diff(have, documented); d != "" {
		t.Errorf("routes (-) and the page (+) differ:\n%s", d)
	}
}

func as(r *http.Request, name string, roles ...string) *http.Request {
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: name, Organization: roles}}}}
	return r
}

// TestAccess asks for every route in every role, over a server with nothing
// behind it: what is let through is seen by its not being 403.
func TestAccess(t *testing.T) {
	reached := false
	s := &server{}
	for _, rt := range every() {
		rt.handle = func(http.ResponseWriter, *http.Request) { reached = true }
		h := s.mux([]route{rt})
		path := strings.NewReplacer("{name}", "a.service", "{digest}", "sha256:0").Replace(rt.path)
		read := rt.method == "GET"
		images := strings.HasPrefix(path, "/plasmid/v1/blobs/")
		units := strings.Contains(path, "/units") || strings.HasSuffix(path, "/order") || strings.HasSuffix(path, "/rebalance")
		public := strings.HasSuffix(path, "/health") || strings.HasSuffix(path, "/openapi.json") || strings.HasSuffix(path, "/discovery")
		own := path == "/plasmid/v1/units" || strings.HasSuffix(path, "/status") || strings.HasSuffix(path, "/journal")
		for _, tt := range []struct {
			who  string
			may  bool
			role []string
		}{
			{"root", true, []string{"admin"}},
			{"m1", true, []string{"node"}},
			{"olga", read && !strings.HasSuffix(path, "/audit") || units || images, []string{"operator"}},
			{"rita", read && !strings.HasSuffix(path, "/audit"), []string{"reader"}},
			{"app-shop", read && (public || own), []string{"app"}},
			{"both", read && !strings.HasSuffix(path, "/audit") || units || images, []string{"reader", "operator"}},
			{"nobody", false, nil},
			{"other", false, []string{"Example Corp"}},
		} {
			reached = false
			w := httptest.NewRecorder()
			h.ServeHTTP(w, as(httptest.NewRequest(rt.method, path, nil), tt.who, tt.role...))
			if reached != tt.may || tt.may == (w.Code == http.StatusForbidden) {
				t.Errorf("%s %s by %s %v: let through %v, %d", rt.method, path, tt.who, tt.role, reached, w.Code)
			}
		}
		// A listener with TLS lets nobody in without a certificate; if it did:
		w := httptest.NewRecorder()
		r := httptest.NewRequest(rt.method, path, nil)
		r.TLS = &tls.ConnectionState{}
		if h.ServeHTTP(w, r); w.Code != http.StatusForbidden {
			t.Errorf("%s %s without a certificate: %d", rt.method, path, w.Code)
		}
	}
}

func TestForbiddenSaysWhatIsNeeded(t *testing.T) {
	s := &server{Config{Metrics: http.NotFoundHandler()}}
	w := httptest.NewRecorder()
	s.mux(s.routes()).ServeHTTP(w, as(httptest.NewRequest("DELETE", "/fleet/v1/units/a.service", nil), "rita", "reader"))
	want := `{"error":{"code":403,"message":"rita has the role reader; DELETE /fleet/v1/units/{name} needs the role operator"}}` + "\n"
	if w.Body.String() != want {
		t.Error(w.Body.String())
	}
}

// TestAppSeesItsOwn asks as an app for what is its own and what is not, also
// by the way that machines pass requests on.
func TestAppSeesItsOwn(t *testing.T) {
	c := newTestCluster(t)
	c.join(1)
	const text = "[Service]\nExecStart=/bin/true\n[X-Plasmid]\nApp="
	revision, err := c.store.ApplyUnits(t.Context(), []store.UnitChange{
		{Name: "mine.service", Text: text + "shop\n"}, {Name: "theirs.service", Text: text + "bank\n"}, {Name: "plain.service", Text: "[Service]\nExecStart=/bin/true\n"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.mirror.Wait(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		c.handler.ServeHTTP(w, as(httptest.NewRequestWithContext(t.Context(), "GET", path, nil), "app-shop", "app"))
		return w
	}
	var list UnitList
	if err := json.Unmarshal(get("/plasmid/v1/units?text=1").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Units) != 1 || list.Units[0].Name != "mine.service" {
		t.Errorf("%+v", list.Units)
	}
	for path, want := range map[string]int{
		"/plasmid/v1/units/mine.service/status":          http.StatusNotFound, // it is on no machine
		"/plasmid/v1/units/theirs.service/status":        http.StatusForbidden,
		"/plasmid/v1/units/theirs.service/status?here=1": http.StatusForbidden,
		"/plasmid/v1/units/plain.service/journal?here=1": http.StatusForbidden,
		"/plasmid/v1/units/none.service/journal":         http.StatusForbidden,
		"/fleet/v1/units":                                http.StatusForbidden,
	} {
		if w := get(path); w.Code != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestAudit changes things in several roles and reads who did what.
func TestAudit(t *testing.T) {
	c := newTestCluster(t)
	c.join(1)
	send := func(who, role, method, path, body string) {
		r := as(httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)), who, role)
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = "10.0.0.9:1"
		c.handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	const text = `"[Service]\nExecStart=/bin/true\n"`
	send("olga", "operator", "POST", "/plasmid/v1/units", `[{"name":"a.service","text":`+text+`,"wish":"launched"},{"name":"b.service","text":`+text+`}]`)
	send("olga", "operator", "POST", "/plasmid/v1/units", `[{"name":"a.service","wish":"launched"}]`) // nothing to change
	send("rita", "reader", "DELETE", "/fleet/v1/units/a.service", "")
	send("rita", "reader", "GET", "/fleet/v1/units", "")
	send("olga", "operator", "PUT", "/fleet/v1/units/a.service?here=1", `{"desiredState":"loaded"}`) // no way around it
	send("root", "admin", "PATCH", "/fleet/v1/machines", `[{"op":"add","path":"/`+machineID(1)+`/metadata/disk","value":"ssd"}]`)
	send("root", "admin", "DELETE", "/fleet/v1/units/a.service", "")
	c.do("DELETE /fleet/v1/units/b.service")

	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, as(httptest.NewRequestWithContext(t.Context(), "GET", "/plasmid/v1/audit", nil), "root", "admin"))
	var answer AuditAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	var got []string
	var last int64
	for _, e := range answer.Entries {
		got = append(got, e.From+" "+e.String())
		if e.Time.IsZero() || e.Machine != machineID(1) || e.Status < 300 && e.Revision <= last {
			t.Errorf("%+v", e)
		}
		last = max(last, e.Revision)
	}
	want := []string{
		"10.0.0.9:1 olga (operator) gave a.service the text 86943ac and made it launched; gave b.service the text 86943ac",
		"10.0.0.9:1 rita (reader) was refused (403) DELETE /fleet/v1/units/a.service",
		"10.0.0.9:1 olga (operator) made a.service loaded",
		"10.0.0.9:1 root (admin) gave m1 metadata disk=ssd",
		"10.0.0.9:1 root (admin) destroyed a.service",
		"socket root (admin) destroyed b.service",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseAudit(t *testing.T) {
	entries, err := parseAudit([]byte(`{"__CURSOR":"s=1","PLASMID_AUDIT":"{\"who\":\"olga\",\"role\":\"operator\",\"status\":204}"}` + "\n"))
	if err != nil || len(entries) != 1 || entries[0].Who != "olga" {
		t.Errorf("%+v, %v", entries, err)
	}
	if _, err := parseAudit([]byte("nonsense\n")); err == nil {
		t.Error("nonsense was read")
	}
}

// TestEventStream listens while a unit is submitted and placed.
func TestEventStream(t *testing.T) {
	c := newTestCluster(t)
	c.join(1)
	srv := httptest.NewServer(c.handler)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/plasmid/v1/events?unit=a.service", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	next := func() string {
		t.Helper()
		var e Event
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(EventKinds, e.Kind) {
			t.Errorf("%s is no kind of event", e.Kind)
		}
		return strings.TrimSpace(e.Kind + " " + e.Unit + " " + e.Name)
	}
	if got := next(); got != "current" {
		t.Fatal(got)
	}
	c.do("PUT /fleet/v1/units/b.service\n\n" + `{"desiredState":"launched","options":[{"section":"Service","name":"ExecStart","value":"/bin/true"}]}`)
	c.do("PUT /fleet/v1/units/a.service\n\n" + `{"desiredState":"launched","options":[{"section":"Service","name":"ExecStart","value":"/bin/true"}]}`)
	if got := next(); got != "submitted a.service" {
		t.Error(got)
	}
	c.place("a.service", 1)
	if got := next(); got != "placed a.service m1" {
		t.Error(got)
	}
	c.report("a.service", 1, "active", "running")
	if got := []string{next(), next()}; !slices.Equal(got, []string{"state a.service m1", "ready a.service m1"}) {
		t.Error(got)
	}
}

func TestPrefixer(t *testing.T) {
	var b strings.Builder
	p := &prefixer{w: &b, mu: new(sync.Mutex), prefix: "m1: "}
	for _, s := range []string{"one\ntw", "o\n", "", "three"} {
		_, _ = io.WriteString(p, s)
	}
	p.end()
	if b.String() != "m1: one\nm1: two\nm1: three\n" {
		t.Errorf("%q", b.String())
	}
}
