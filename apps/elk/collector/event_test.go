package collector

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		in     any
		at     position
		resent bool
		want   map[string]any
	}{
		{"text", map[string]any{"message": "hello"}, position{}, false, map[string]any{"message": "hello", "@timestamp": "2026-05-01T12:00:00Z"}},
		{"JSON in the message", map[string]any{"message": `{"status":404,"time":"2026-05-01T11:59:59.5Z"}`, "source": "a", "offset": 7.0}, position{"a", 7}, false,
			map[string]any{"message": `{"status":404,"time":"2026-05-01T11:59:59.5Z"}`, "status": 404.0, "source": "a", "offset": 7.0, "@timestamp": "2026-05-01T11:59:59.5Z"}},
		{"a message can't say who sent it", map[string]any{"message": `{"source":"b","offset":1,"app":"x","resent":true}`, "source": "a", "offset": 7.0, "app": "sinatra"}, position{"a", 7}, false,
			map[string]any{"message": `{"source":"b","offset":1,"app":"x","resent":true}`, "source": "a", "offset": 7.0, "app": "sinatra", "resent": true, "@timestamp": "2026-05-01T12:00:00Z"}},
		{"resent", map[string]any{"message": "x", "source": "a", "offset": 7.0, "resent": true}, position{"a", 7}, true,
			map[string]any{"message": "x", "source": "a", "offset": 7.0, "@timestamp": "2026-05-01T12:00:00Z"}},
		{"version 1", map[string]string{"line": "x", "offset": "9", "source": "a"}, position{"a", 9}, false,
			map[string]any{"message": "x", "source": "a", "offset": 9.0, "@timestamp": "2026-05-01T12:00:00Z"}},
		{"a time that the store would drop", map[string]any{"message": "x", "@timestamp": "1999-01-01T00:00:00Z"}, position{}, false, map[string]any{"message": "x", "@timestamp": "2026-05-01T12:00:00Z"}},
		{"no message", map[string]any{"a": "b"}, position{}, false, map[string]any{"message": "-", "a": "b", "@timestamp": "2026-05-01T12:00:00Z"}},
		{"no object", []any{"a"}, position{}, false, map[string]any{"message": "[a]", "@timestamp": "2026-05-01T12:00:00Z"}},
		{"half an offset", map[string]any{"message": "x", "source": "a", "offset": 7.5}, position{}, false, map[string]any{"message": "x", "source": "a", "offset": 7.5, "@timestamp": "2026-05-01T12:00:00Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := parse(c.in, now)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(e.json, &got); err != nil {
				t.Fatal(err)
			}
			if e.at != c.at || e.resent != c.resent {
				t.Errorf("at %v, resent %v", e.at, e.resent)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// Two callers with sources in common take turns, and none waits for ever.
func TestSources(t *testing.T) {
	var s sources
	inside := 0
	done := make(chan struct{})
	for _, names := range [][]string{{"a", "b"}, {"b", "c"}, {"a", "c"}} {
		go func() {
			for range 100 {
				unlock := s.lock(append(names, "z"))
				inside++ // the race detector, and the sum, tell if two are inside
				unlock()
			}
			done <- struct{}{}
		}()
	}
	for range 3 {
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("they wait for each other")
		}
	}
	if inside != 300 || len(s.locks) != 0 {
		t.Errorf("%d times inside, %d locks are left", inside, len(s.locks))
	}
}
