package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/store"
)

// rolling is a cluster that writes down what it is told, and on which texts
// with "bad" in them never become ready.
type rolling struct {
	t     *testing.T
	texts map[string]string
	steps []string
}

func (r *rolling) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var changes []api.Change
	if err := json.NewDecoder(req.Body).Decode(&changes); err != nil {
		r.t.Error(err)
	}
	var said []string
	for _, c := range changes {
		r.texts[c.Name] = c.Text
		said = append(said, c.Name+"="+c.Text)
	}
	r.steps = append(r.steps, strings.Join(said, " "))
	fmt.Fprint(w, `{"revision":1}`)
}

func (r *rolling) await(_ context.Context, units []string, timeout time.Duration) error {
	for _, u := range units {
		if strings.Contains(r.texts[u], "bad") {
			return fmt.Errorf("%s is not ready", u)
		}
	}
	return nil
}

// Instances are replaced one after the other; when one does not work, those
// that were replaced get their old version back, the broken one first.
func TestRolling(t *testing.T) {
	old := func(names ...string) map[string]api.Unit {
		have := map[string]api.Unit{}
		for _, n := range names {
			have[n] = api.Unit{Name: n, Text: "old", Wish: store.Launched}
		}
		return have
	}
	for _, c := range []struct {
		name, text string
		names      []string
		have       map[string]api.Unit
		bad        string // the instance on which the text does not work
		want       []string
		err        string
	}{
		{name: "first time", text: "new", names: []string{"a@1", "a@2"}, want: []string{"a@1=new a@2=new"}},
		{name: "one after the other", text: "new", names: []string{"a@1", "a@2"}, have: old("a@1", "a@2"), want: []string{"a@1=new", "a@2=new"}},
		{name: "new ones first", text: "new", names: []string{"a@1", "a@2", "a@3"}, have: old("a@1"), want: []string{"a@2=new a@3=new", "a@1=new"}},
		{name: "nothing", text: "old", names: []string{"a@1"}, have: old("a@1")},
		{name: "never ready", text: "bad", names: []string{"a@1", "a@2"}, have: old("a@1", "a@2"), want: []string{"a@1=bad", "a@1=old"}, err: "a@1 is not ready"},
		{name: "the second is not ready", text: "new", bad: "a@2", names: []string{"a@1", "a@2", "a@3"}, have: old("a@1", "a@2", "a@3"), want: []string{"a@1=new", "a@2=new", "a@2=old", "a@1=old"}, err: "runs as it did before"},
		{name: "a new app that never gets ready", text: "bad", names: []string{"a@1"}, want: []string{"a@1=bad"}, err: "a@1 is not ready"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rolling{t: t, texts: map[string]string{}}
			server := httptest.NewServer(r)
			defer server.Close()
			cl, err := client.New(client.Config{Endpoints: []string{server.URL}})
			if err != nil {
				t.Fatal(err)
			}
			// What the app itself adds to a text is left out of the steps.
			a := &App{Name: "x"}
			u := Unit{Name: "a@", Text: c.text, Names: c.names, Timeout: time.Minute}
			suffix := strings.TrimPrefix(a.text(u, nil), c.text)
			for n, h := range c.have {
				h.Text += suffix
				c.have[n] = h
			}
			target := Cluster{Client: cl, Await: func(ctx context.Context, units []string, timeout time.Duration) error {
				if len(units) == 1 && units[0] == c.bad && strings.HasPrefix(r.texts[c.bad], c.text) {
					return errors.New(c.bad + " is not ready")
				}
				return r.await(ctx, units, timeout)
			}}
			err = target.start(t.Context(), &Plan{app: a, have: c.have}, u, &Result{})
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			var steps []string
			for _, s := range r.steps {
				steps = append(steps, strings.ReplaceAll(s, suffix, ""))
			}
			if d := cmp.Diff(c.want, steps); d != "" {
				t.Error(d)
			}
		})
	}
}

// Who interrupts a deployment wants to go on with it, not back.
func TestRollingInterrupted(t *testing.T) {
	r := &rolling{t: t, texts: map[string]string{}}
	server := httptest.NewServer(r)
	defer server.Close()
	cl, err := client.New(client.Config{Endpoints: []string{server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	target := Cluster{Client: cl, Await: func(ctx context.Context, _ []string, _ time.Duration) error {
		cancel()
		return ctx.Err()
	}}
	p := &Plan{app: &App{Name: "x"}, have: map[string]api.Unit{"a@1": {Text: "old", Wish: store.Launched}, "a@2": {Text: "old", Wish: store.Launched}}}
	if err := target.start(ctx, p, Unit{Name: "a@", Text: "new", Names: []string{"a@1", "a@2"}}, &Result{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if len(r.steps) != 1 {
		t.Errorf("steps %q", r.steps)
	}
}
