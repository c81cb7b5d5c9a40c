package client

import (
	"context"
	"net"
	"time"
)

// headStart is what an endpoint has before the next one is tried beside it: a
// machine that lost its power answers nothing at all, and nobody should have
// to wait until that is called a timeout.
const headStart = 150 * time.Millisecond

// dialer connects to one endpoint.
type dialer func(ctx context.Context) (net.Conn, error)

// race connects to several, each one a little after the one before it or
// as soon as that has failed, and returns the index of the first that accepts
// a connection; 0 if none does before ctx ends, so that the request itself
// says why.
func race(ctx context.Context, dialers []dialer) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		index int
		err   error
	}
	outcomes := make(chan outcome, len(dialers))
	started, failed := 0, 0
	start := func() {
		index := started
		started++
		go func() {
			conn, err := dialers[index](ctx)
			if err == nil {
				conn.Close()
			}
			outcomes <- outcome{index, err}
		}()
	}
	start()
	next := time.NewTicker(headStart)
	defer next.Stop()
	for failed < len(dialers) {
		select {
		case <-ctx.Done():
			return 0
		case o := <-outcomes:
			if o.err == nil {
				return o.index
			}
			failed++
			if started < len(dialers) && failed == started {
				start()
			}
		case <-next.C:
			if started < len(dialers) {
				start()
			}
		}
	}
	return 0
}
