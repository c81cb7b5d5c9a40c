package traffic

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// Visitors go where the target is now, and come back after it was away.
func TestTraffic(t *testing.T) {
	came := make(chan string, 1000)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case came <- r.URL.Path:
		default:
		}
	}))
	defer site.Close()
	var asked atomic.Int64
	tr := &Traffic{Visitors: 3, Pause: time.Millisecond, Log: slog.New(slog.DiscardHandler), Target: func() (string, error) {
		if asked.Add(1) < 10 {
			return "", errors.New("nothing is registered yet")
		}
		return site.URL, nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tr.Run(ctx) }()
	paths := map[string]bool{}
	deadline := time.After(20 * time.Second)
	for len(paths) < 4 {
		select {
		case p := <-came:
			paths[p] = true
		case <-deadline:
			t.Fatalf("only %v were asked for", paths)
		}
	}
	cancel()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on after the end")
	}
}
