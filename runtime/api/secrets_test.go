package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"plasmid/runtime/store"
	"plasmid/runtime/store/etcdtest"
)

// Secrets can be set and listed; no answer and no audit entry has a value.
func TestSecrets(t *testing.T) {
	srv := etcdtest.Start(t)
	st, err := store.Open(t.Context(), store.Config{Endpoints: []string{srv.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	audit := &memoryAudit{}
	s := &server{Config{Secrets: st, Audit: audit, MachineID: machineID(1)}}
	h := s.mux(s.secretRoutes())
	do := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, as(httptest.NewRequest(method, path, strings.NewReader(body)), "olga", "operator"))
		return w.Code, w.Body.String()
	}
	value, _ := json.Marshal(SecretValue{Value: []byte("hunter2"), UID: 33})
	const path = "/plasmid/v1/apps/shop/secrets/password"
	for range 2 { // the second changes nothing
		if code, body := do("PUT", path, string(value)); code != http.StatusOK || strings.Contains(body, "aHVudGVyMg") {
			t.Errorf("set: %d %s", code, body)
		}
	}
	code, body := do("GET", "/plasmid/v1/secrets?app=shop", "")
	if code != http.StatusOK || !strings.Contains(body, `"name":"password","bytes":7,"uid":33`) || strings.Contains(body, "aHVudGVyMg") {
		t.Errorf("list: %d %s", code, body)
	}
	for _, c := range []struct {
		path, body string
		code       int
	}{
		{path, `{"value":""}`, http.StatusBadRequest},
		{path, `{"value":"aa==","uid":-1}`, http.StatusBadRequest},
		{path, `nonsense`, http.StatusBadRequest},
		{"/plasmid/v1/apps/Shop/secrets/a", string(value), http.StatusBadRequest},
		{"/plasmid/v1/apps/shop/secrets/.hidden", string(value), http.StatusBadRequest},
	} {
		if code, body := do("PUT", c.path, c.body); code != c.code || strings.Contains(body, "aHVudGVyMg") {
			t.Errorf("PUT %s %s: %d %s, want %d", c.path, c.body, code, body, c.code)
		}
	}
	if code, _ := do("DELETE", path, ""); code != http.StatusOK {
		t.Errorf("remove: %d", code)
	}
	if code, _ := do("DELETE", path, ""); code != http.StatusNotFound {
		t.Errorf("remove again: %d", code)
	}
	var what []string
	for _, e := range audit.entries {
		if e.Status == http.StatusOK {
			what = append(what, e.What...)
		}
		data, _ := json.Marshal(e)
		if strings.Contains(string(data), "hunter2") || strings.Contains(string(data), "aHVudGVyMg") {
			t.Errorf("the audit log has the value: %s", data)
		}
	}
	if got := strings.Join(what, "; "); got != "set secret shop/password; removed secret shop/password" {
		t.Errorf("audit log: %s", got)
	}
}
