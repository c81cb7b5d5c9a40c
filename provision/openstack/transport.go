package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// callTimeout is for one try of one call, answer included.
	callTimeout = 60 * time.Second
	// maxTries of one call, and how long to wait between them: firstWait,
	// doubled each time, at most maxWait.
	maxTries  = 7
	firstWait = 500 * time.Millisecond
	maxWait   = 15 * time.Second
	// maxRetryAfter is how long a server may tell us to wait.
	maxRetryAfter = 2 * time.Minute
)

// transport gives every call a deadline and makes it again where that is safe.
//
// A call that changes nothing, or the same when it is made twice, is made again
// after any fault of the network or the server. One that creates something is
// made again only if the server surely did not do it: it said so (429, and 503
// or 413 with Retry-After), or was never reached. Otherwise those who make
// things look first whether it is there: see ensure.
type transport struct {
	base  http.RoundTripper
	calls *atomic.Int64 // tries that were made
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := t.try(req)
		wait, again := retry(req, resp, err, try)
		if !again || req.Context().Err() != nil {
			return resp, err
		}
		if resp != nil {
			io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
			resp.Body.Close()
		}
		timer := time.NewTimer(wait)
		select {
		case <-req.Context().Done():
			timer.Stop()
			return nil, req.Context().Err()
		case <-timer.C:
		}
	}
}

func (t *transport) try(req *http.Request) (*http.Response, error) {
	t.calls.Add(1)
	if isUpload(req) {
		return t.base.RoundTrip(req) // takes as long as it takes; whoever uploads sees to it
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), callTimeout, fmt.Errorf("no answer within %v", callTimeout))
	r := req.Clone(ctx)
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			cancel()
			return nil, err
		}
		r.Body = body
	}
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		if req.Context().Err() == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		cancel()
		return nil, err
	}
	resp.Body = &cancelBody{resp.Body, cancel}
	return resp, nil
}

// isUpload tells a body of unknown length that can't be sent twice.
func isUpload(req *http.Request) bool { return req.Body != nil && req.GetBody == nil }

// cancelBody ends the call's deadline when its answer was read.
type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *cancelBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// retry reports whether to make a call again, and after what time.
func retry(req *http.Request, resp *http.Response, err error, try int) (time.Duration, bool) {
	if try >= maxTries || isUpload(req) {
		return 0, false
	}
	wait := backOff(try)
	if err != nil {
		return wait, repeatable(req.Method) || neverReached(err)
	}
	after, told := retryAfter(resp)
	if told {
		wait = after
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, 498: // 498: Swift's and some proxies' rate limit
		return wait, wait <= maxRetryAfter
	case http.StatusRequestEntityTooLarge: // how Nova limited rates before 429 was
		return wait, told && wait <= maxRetryAfter
	case http.StatusServiceUnavailable:
		return wait, (told || repeatable(req.Method)) && wait <= maxRetryAfter
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return wait, repeatable(req.Method)
	}
	return 0, false
}

func repeatable(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// neverReached reports that no connection was made.
func neverReached(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// backOff doubles, with a quarter of chance in it, so that many callers do not
// come back at once.
func backOff(try int) time.Duration {
	wait := maxWait
	if try < 6 {
		wait = min(maxWait, firstWait<<(try-1))
	}
	return wait*3/4 + rand.N(wait/4)
}

// retryAfter reads the header, which is in seconds or a date: RFC 9110, 10.2.3.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	h := resp.Header.Get("Retry-After")
	if s, err := strconv.Atoi(h); err == nil && s >= 0 {
		return time.Duration(s) * time.Second, true
	}
	if t, err := http.ParseTime(h); err == nil {
		return max(0, time.Until(t)), true
	}
	return 0, false
}
