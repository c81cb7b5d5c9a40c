package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestRace(t *testing.T) {
	// dead: no answer at all; shut: refused at once; slow: after a second.
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		switch address {
		case "dead":
			<-ctx.Done()
			return nil, ctx.Err()
		case "shut":
			return nil, errors.New("connection refused")
		case "slow":
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Second):
			}
		}
		here, _ := net.Pipe()
		return here, nil
	}
	for _, test := range []struct {
		addresses []string
		want      string
		within    time.Duration
	}{
		{[]string{"up", "dead"}, "up", 0},
		{[]string{"dead", "up"}, "up", headStart},
		{[]string{"dead", "dead", "up"}, "up", 2 * headStart},
		{[]string{"shut", "up"}, "up", 0},
		{[]string{"shut", "dead", "up"}, "up", 2 * headStart},
		{[]string{"slow", "dead"}, "slow", time.Second},
		{[]string{"shut", "shut"}, "shut", 0},
		{[]string{"dead", "shut"}, "dead", 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			start := time.Now()
			var dialers []dialer
			for _, a := range test.addresses {
				dialers = append(dialers, func(ctx context.Context) (net.Conn, error) { return dial(ctx, a) })
			}
			got, conn := race(ctx, dialers)
			if conn != nil {
				conn.Close()
			}
			if won := test.want != "shut" && test.want != "dead"; won != (conn != nil) {
				t.Errorf("%v: the connection is %v", test.addresses, conn)
			}
			if test.addresses[got] != test.want || got != slices.Index(test.addresses, test.want) || time.Since(start) > test.within {
				t.Errorf("%v: took %d after %v, want %s within %v", test.addresses, got, time.Since(start), test.want, test.within)
			}
		})
	}
}
