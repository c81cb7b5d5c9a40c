package openstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gophercloud/gophercloud/v2"
)

// answers gives one answer after the other: an error, or a status with a
// Retry-After.
type answers struct {
	list []any
	n    int
	body []string // what was sent, call by call
}

type answer struct {
	code  int
	after string
}

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		data, _ := io.ReadAll(req.Body)
		a.body = append(a.body, string(data))
	}
	next := a.list[min(a.n, len(a.list)-1)]
	a.n++
	switch v := next.(type) {
	case error:
		return nil, v
	case time.Duration: // takes so long
		select {
		case <-time.After(v):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}}, nil
	case answer:
		h := http.Header{}
		if v.after != "" {
			h.Set("Retry-After", v.after)
		}
		return &http.Response{StatusCode: v.code, Body: http.NoBody, Header: h}, nil
	}
	panic("no answer")
}

func TestRetries(t *testing.T) {
	cut := errors.New("connection reset by peer")
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, c := range []struct {
		name, method string
		list         []any
		tries        int
		atLeast      time.Duration
		atMost       time.Duration
		code         int // 0: an error
	}{
		{"all is well", "GET", []any{answer{code: 200}}, 1, 0, 0, 200},
		{"a cut connection", "GET", []any{cut, cut, answer{code: 200}}, 3, time.Second, 2 * time.Second, 200},
		{"a cut connection while making something", "POST", []any{cut, answer{code: 200}}, 1, 0, 0, 0},
		{"never reached while making something", "POST", []any{refused, answer{code: 201}}, 2, 0, time.Second, 201},
		{"too many calls", "POST", []any{answer{429, "7"}, answer{code: 201}}, 2, 7 * time.Second, 7 * time.Second, 201},
		{"too many calls, no time told", "POST", []any{answer{code: 429}, answer{code: 201}}, 2, 300 * time.Millisecond, time.Second, 201},
		{"too many calls, until tomorrow", "GET", []any{answer{429, "86400"}}, 1, 0, 0, 429},
		{"too many calls, in Nova's old way", "POST", []any{answer{413, "2"}, answer{code: 202}}, 2, 2 * time.Second, 2 * time.Second, 202},
		{"too large", "POST", []any{answer{code: 413}}, 1, 0, 0, 413},
		{"a fault", "GET", []any{answer{code: 500}, answer{code: 502}, answer{code: 503}, answer{code: 504}, answer{code: 200}}, 5, 4 * time.Second, 8 * time.Second, 200},
		{"a fault that lasts", "DELETE", []any{answer{code: 500}}, maxTries, 20 * time.Second, 46 * time.Second, 500},
		{"a fault while making something", "POST", []any{answer{code: 500}}, 1, 0, 0, 500},
		{"maintenance while making something", "POST", []any{answer{503, "1"}, answer{code: 201}}, 2, time.Second, time.Second, 201},
		{"a refusal", "GET", []any{answer{code: 403}}, 1, 0, 0, 403},
		{"no answer", "GET", []any{time.Hour, answer{code: 200}}, 2, callTimeout, callTimeout + time.Second, 200},
		{"no answer while making something", "POST", []any{time.Hour}, 1, callTimeout, callTimeout, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &answers{list: c.list}
				var calls atomic.Int64
				req, err := http.NewRequestWithContext(t.Context(), c.method, "http://cloud.example/", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				resp, err := (&transport{a, &calls}).RoundTrip(req)
				took := time.Since(start)
				code := 0
				if err == nil {
					code = resp.StatusCode
					resp.Body.Close()
				}
				if code != c.code || a.n != c.tries || int(calls.Load()) != c.tries || took < c.atLeast || took > c.atMost {
					t.Errorf("%d (%v) in %d tries and %v; want %d, %d, %v to %v", code, err, a.n, took, c.code, c.tries, c.atLeast, c.atMost)
				}
				for _, b := range a.body {
					if b != "body" {
						t.Errorf("%q was sent", b)
					}
				}
			})
		})
	}
}

// A date far away is no reason to wait longer than the caller wants to.
func TestRetryEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", "http://cloud.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int64
		a := &answers{list: []any{answer{429, time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)}}}
		if _, err := (&transport{a, &calls}).RoundTrip(req); !errors.Is(err, context.DeadlineExceeded) || a.n != 1 {
			t.Errorf("%v after %d tries", err, a.n)
		}
	})
}

func TestWhatServicesSay(t *testing.T) {
	for _, c := range []struct {
		code      int
		body      string
		says      string
		undecided bool
	}{
		{409, `{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: ['port'].", "detail": ""}}`, "Quota exceeded for resources: ['port'] (HTTP 409)", false},
		{409, `{"conflictingRequest": {"code": 409, "message": "Port x is still in use."}}`, "Port x is still in use (HTTP 409)", true},
		{403, `{"forbidden": {"code": 403, "message": "Quota exceeded for cores"}}`, "Quota exceeded for cores (HTTP 403; the credentials may lack a role or the project a quota)", false},
		{500, `<html>oops</html>`, "Internal Server Error (HTTP 500)", true},
		{503, ``, "Service Unavailable (HTTP 503)", true},
		{400, `{"badRequest": {"message": "Invalid key_name provided.", "code": 400}}`, "Invalid key_name provided (HTTP 400)", false},
	} {
		err := error(gophercloud.ErrUnexpectedResponseCode{Actual: c.code, Body: []byte(c.body)})
		if got := said(err).Error(); got != c.says {
			t.Errorf("got %q, want %q", got, c.says)
		}
		if undecided(err) != c.undecided || undecided(said(err)) != c.undecided {
			t.Errorf("%s: undecided is %v", c.says, !c.undecided)
		}
	}
}
