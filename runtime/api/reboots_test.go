package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"plasmid/runtime/reboot"
	"plasmid/runtime/store"
)

// noReboots is a machine that notes what it is told.
type noReboots struct{ told []string }

func (n *noReboots) Now()    { n.told = append(n.told, "now") }
func (n *noReboots) Cancel() { n.told = append(n.told, "cancel") }
func (n *noReboots) Status() reboot.Status {
	return reboot.Status{Machine: machineID(1), Name: "m1", Group: "default", Reason: "waits"}
}

// reboot sends a request as an administrator, or as a machine that passes it
// on.
func (c *cluster) rebootRequest(role, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, as(httptest.NewRequestWithContext(c.t.Context(), method, path, strings.NewReader(body)), "root", role))
	return w
}

func TestRebootLocks(t *testing.T) {
	c := newTestCluster(t)
	c.join(1)
	c.join(2)
	lock := func() string { return c.mirror.View().Reboots["default"].String() }
	for _, step := range []struct {
		method, path, body string
		status             int
		lock               string
		says               string
	}{
		{"PUT", "/plasmid/v1/machines/m1/reboot-lock", "", 200, "held by m1", `"operator":true`},
		{"PUT", "/plasmid/v1/machines/m1/reboot-lock", "", 200, "held by m1", `"operator":true`},
		{"PUT", "/plasmid/v1/machines/" + machineID(2) + "/reboot-lock", "", 200, "held by m1, m2", ""},
		{"PUT", "/plasmid/v1/machines/m3/reboot-lock", "", 404, "held by m1, m2", "machine m3: not found; plasmid list-machines shows those that are known"},
		{"PUT", "/plasmid/v1/machines/0000/reboot-lock", "", 400, "held by m1, m2", "0000 is the beginning of 2 machines' IDs"},
		{"PUT", "/plasmid/v1/reboots/default", `{"max":0}`, 200, "held by m1, m2, max 0", `"max":0`},
		{"PUT", "/plasmid/v1/reboots/default", `{"max":-1}`, 400, "held by m1, m2, max 0", "max is below 0"},
		{"PUT", "/plasmid/v1/reboots/other", `{"max":1}`, 404, "held by m1, m2, max 0", `no machine is in the reboot group \"other\"`},
		{"PUT", "/plasmid/v1/reboots/default", `{"max":null}`, 200, "held by m1, m2", ""},
		{"DELETE", "/plasmid/v1/machines/m1/reboot-lock", "", 200, "held by m2", ""},
	} {
		w := c.rebootRequest("admin", step.method, step.path, step.body)
		if w.Code != step.status || !strings.Contains(w.Body.String(), step.says) {
			t.Errorf("%s %s: %d %s", step.method, step.path, w.Code, w.Body)
		}
		if lock() != step.lock {
			t.Errorf("%s %s: the lock is %s, want %s", step.method, step.path, lock(), step.lock)
		}
	}
	// A holder that is known no more can be unlocked all the same.
	if err := c.store.ForgetMachine(t.Context(), machineID(2)); err != nil {
		t.Fatal(err)
	}
	c.until(func(v *store.View) bool { return len(v.Known) == 1 })
	if w := c.rebootRequest("admin", "DELETE", "/plasmid/v1/machines/m2/reboot-lock", ""); w.Code != 200 || lock() != "held by nobody" {
		t.Errorf("%d %s; %s", w.Code, w.Body, lock())
	}
}

func TestRebootOfAMachine(t *testing.T) {
	c := newTestCluster(t)
	c.join(1)
	for _, method := range []string{"POST", "GET", "DELETE"} {
		if w := c.rebootRequest("node", method, "/plasmid/v1/machines/m1/reboot?here=1", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"reason":"waits"`) {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
	}
	if got := strings.Join(c.reboots.told, " "); got != "now cancel" {
		t.Errorf("the machine was told: %s", got)
	}
	var all Reboot
	w := c.rebootRequest("reader", "GET", "/plasmid/v1/reboots", "")
	if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil || w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	if len(all.Groups) != 1 || all.Groups[0].Group != "default" || len(all.Machines) != 1 || all.Machines[0].Reason != "waits" {
		t.Errorf("%+v", all)
	}
}
