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

// race connects to several, each one a little after the one before it or as soon
// as that has failed. It returns the index of the first that accepts a
// connection, and the connection, which is the caller's; 0 and nil if none does
// before ctx ends, so that the request itself says why.
func race(ctx context.Context, dialers []dialer) (int, net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		index int
		conn  net.Conn
		err   error
	}
	outcomes := make(chan outcome)
	started, ended, failed := 0, 0, 0
	start := func() {
		index := started
		started++
		go func() {
			conn, err := dialers[index](ctx)
			outcomes <- outcome{index, conn, err}
		}()
	}
	// Who comes in later is sent away.
	defer func() {
		left := started - ended
		go func() {
			for range left {
				if o := <-outcomes; o.err == nil {
					o.conn.Close()
				}
			}
		}()
	}()
	start()
	next := time.NewTicker(headStart)
	defer next.Stop()
	for failed < len(dialers) {
		select {
		case <-ctx.Done():
			return 0, nil
		case o := <-outcomes:
			ended++
			if o.err == nil {
				return o.index, o.conn
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
	return 0, nil
}
