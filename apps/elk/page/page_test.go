package page

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, path string) (int, http.Header, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, w.Result().Header, string(body)
}

func TestPage(t *testing.T) {
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("query") == "(" {
			http.Error(w, "cannot parse <script>", http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, r.URL.Path+"?"+r.URL.RawQuery)
	}))
	defer store.Close()
	h, err := Handler(store.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/", 200, "<title>Logs</title>"},
		{"/page.js", 200, "uPlot"},
		{"/uplot/LICENSE", 200, "MIT"},
		{"/api/hits?query=*&field=status&step=1s", 200, "/select/logsql/hits?field=status&query=%2A&step=1s&timeout=10s"},
		{"/api/query?query=*&limit=10", 200, "/select/logsql/query?limit=10"},
		{"/api/query?query=*&limit=1001", 400, "limit is from 1 to 1000"},
		{"/api/query?query=*", 400, "limit"},
		{"/api/hits?query=*&timeout=1h", 400, "hits takes"},
		{"/api/hits?query=a&query=b", 400, "each once"},
		{"/api/hits?query=" + strings.Repeat("a", maxQuery+1), 400, "bytes at most"},
		{"/api/facets?query=(", 400, "cannot parse"},
		{"/api/tail?query=*", 404, ""},
		{"/api/..%2F..%2Finternal", 404, ""},
		{"/health", 200, "ok"},
	} {
		code, header, body := get(t, h, c.path)
		if code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %.200q, want %d %q", c.path, code, body, c.code, c.want)
		}
		if header.Get("Content-Security-Policy") != policy || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", c.path, header)
		}
		if code != 200 && strings.Contains(header.Get("Content-Type"), "html") {
			t.Errorf("%s: an error is HTML", c.path)
		}
	}
	store.Close()
	if code, _, body := get(t, h, "/api/hits?query=*"); code != http.StatusBadGateway {
		t.Errorf("without a store: %d %q", code, body)
	}
	if code, _, _ := get(t, h, "/health"); code != http.StatusServiceUnavailable {
		t.Errorf("health without a store: %d", code)
	}
}

// The policy forbids scripts and styles in the page; so it has none.
func TestNothingInline(t *testing.T) {
	html, err := static.ReadFile("static/index.html")
	if err != nil {
		t.Fatal(err)
	}
	if bad := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script(?:[^>]*)>[^<]|https?://`).Find(html); bad != nil {
		t.Errorf("index.html has %q", bad)
	}
	script, err := static.ReadFile("static/page.js")
	if err != nil {
		t.Fatal(err)
	}
	if bad := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(`).Find(script); bad != nil {
		t.Errorf("page.js has %q", bad)
	}
}

func TestBadStore(t *testing.T) {
	for _, s := range []string{"", "store:9428", "https://store", "http://"} {
		if _, err := Handler(s); err == nil {
			t.Errorf("%q is taken for a store", s)
		}
	}
}
