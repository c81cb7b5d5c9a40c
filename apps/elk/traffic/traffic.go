// Package traffic asks a web site for pages as people do: each at their own
// pace, sometimes for what is not there.
package traffic

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Traffic is made by a number of visitors.
type Traffic struct {
	// Target says where to, before each request: a URL without a path.
	Target   func() (url string, err error)
	Visitors int
	// Pause between two requests of a visitor is up to twice this, at random.
	Pause time.Duration
	Log   *slog.Logger
}

// paths are asked for at random; what stands more often is asked for more.
var paths = []string{"/", "/", "/", "/", "/", "/cart", "/cart", "/search", "/login", "/missing", "/slow", "/error"}

// report is how often it is said what came back.
const report = time.Minute

// Run makes traffic until ctx ends.
func (t *Traffic) Run(ctx context.Context) {
	var good, bad atomic.Int64
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: t.Visitors}}
	var wg sync.WaitGroup
	for range t.Visitors {
		wg.Go(func() {
			for rest(ctx, rand.N(2*t.Pause+1)) {
				if err := t.visit(ctx, client); err != nil {
					bad.Add(1)
					t.Log.Debug("no answer", "err", err)
				} else {
					good.Add(1)
				}
			}
		})
	}
	for rest(ctx, report) {
		t.Log.Info("traffic", "answered", good.Swap(0), "failed", bad.Swap(0))
	}
	wg.Wait()
}

func (t *Traffic) visit(ctx context.Context, client *http.Client) error {
	base, err := t.Target()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+paths[rand.IntN(len(paths))], nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "elk-traffic")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
