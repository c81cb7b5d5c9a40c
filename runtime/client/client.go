// Package client speaks to a cluster's API, over a machine's socket or with a
// certificate to any of its machines.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"plasmid/runtime/api"
	"plasmid/runtime/reboot"
	"plasmid/runtime/schedule"
)

// Config says where the API is.
type Config struct {
	Endpoints []string // unix:///path or https://host:port; the first that answers is used
	TLS       *tls.Config
	// Dial connects to the API instead, by a tunnel say. The endpoint is then
	// a name for messages.
	Dial func(ctx context.Context) (net.Conn, error)
	// Via connects to the endpoints' addresses in another way than directly.
	Via func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client asks the endpoint that connects first, and if it fails one after the
// other until one answers.
type Client struct {
	endpoints []endpoint

	mu   sync.Mutex
	good int // the endpoint that answered last; none: -1
}

type endpoint struct {
	name string
	base string
	dial dialer
	kept chan net.Conn // the connection that came in first, for the first request
	http *http.Client
}

// dialTimeout is for reaching one endpoint.
const dialTimeout = 3 * time.Second

// New returns a client; it does not connect yet.
func New(c Config) (*Client, error) {
	if len(c.Endpoints) == 0 {
		return nil, errors.New("no machine of the cluster is known")
	}
	cl := &Client{good: -1}
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		if err != nil {
			return nil, err
		}
		base, network, address := e, "tcp", u.Host
		switch u.Scheme {
		case "unix":
			base, network, address = "http://plasmid", "unix", u.Path
		case "https", "http", "ssh":
			if u.Port() == "" {
				address = net.JoinHostPort(u.Hostname(), u.Scheme)
			}
		default:
			return nil, fmt.Errorf("endpoint %q is neither unix:///… nor https://…", e)
		}
		via := (&net.Dialer{Timeout: dialTimeout}).DialContext
		if c.Via != nil && network == "tcp" {
			via = c.Via
		}
		dial := func(ctx context.Context) (net.Conn, error) { return via(ctx, network, address) }
		if c.Dial != nil {
			base, dial = "http://plasmid", c.Dial
		}
		kept := make(chan net.Conn, 1)
		t := &http.Transport{TLSClientConfig: c.TLS, TLSHandshakeTimeout: dialTimeout,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				select {
				case conn := <-kept:
					return conn, nil
				default:
					return dial(ctx)
				}
			}}
		cl.endpoints = append(cl.endpoints, endpoint{e, strings.TrimSuffix(base, "/"), dial, kept, &http.Client{Transport: t}})
	}
	return cl, nil
}

// Error is what the API answered.
type Error struct {
	Status  int
	Message string
	// Doubt: a machine that was asked before may have done what was asked.
	Doubt bool
}

func (e *Error) Error() string { return e.Message }

// first is the endpoint to begin with: the one that answered last, or else the
// first to connect.
func (c *Client) first(ctx context.Context) int {
	c.mu.Lock()
	good := c.good
	c.mu.Unlock()
	if good >= 0 || len(c.endpoints) == 1 {
		return max(good, 0)
	}
	dialers := make([]dialer, len(c.endpoints))
	for i, e := range c.endpoints {
		dialers[i] = e.dial
	}
	winner, conn := race(ctx, dialers)
	if conn != nil {
		select {
		case c.endpoints[winner].kept <- conn:
		default: // two requests began at once
			conn.Close()
		}
	}
	return winner
}

// patience is how long a request that nobody took is sent again: plasmidd is
// started anew by systemd when it was killed or upgraded, on all machines at once
// perhaps.
const patience = 5 * time.Second

const firstPause, lastPause = 50 * time.Millisecond, 800 * time.Millisecond

// do sends a request to the first endpoint that can be reached. When machines
// refuse the connection and no other answers it tries again for a while.
func (c *Client) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	end := time.Now().Add(patience)
	doubt := false
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		resp, again, err := c.once(ctx, method, path, body, &doubt)
		if !again || time.Now().Add(pause).After(end) {
			return resp, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// restarts reports whether an error is what a daemon that is being started anew
// gives: it refuses connections, or breaks one on which it was only asked.
func restarts(method string, err error) bool {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return method == http.MethodGet && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
}

// dialed reports whether an error came after the connection was there, so that the
// request may have been received.
func dialed(err error) bool {
	var op *net.OpError
	return !errors.As(err, &op) || op.Op != "dial"
}

// once tries each endpoint. again says that none answered, and that this is
// likely to be otherwise soon; doubt is set when one may have done what was asked.
func (c *Client) once(ctx context.Context, method, path string, body []byte, doubt *bool) (_ *http.Response, again bool, _ error) {
	first := c.first(ctx)
	var errs []error
	for i := range c.endpoints {
		n := (first + i) % len(c.endpoints)
		e := c.endpoints[n]
		req, err := http.NewRequestWithContext(ctx, method, e.base+path, bytes.NewReader(body))
		if err != nil {
			return nil, false, err
		}
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := e.http.Do(req)
		if err != nil {
			if ctx.Err() != nil {
				return nil, false, ctx.Err()
			}
			again = again || restarts(method, err)
			*doubt = *doubt || dialed(err)
			errs = append(errs, fmt.Errorf("%s: %w", e.name, err))
			continue
		}
		if resp.StatusCode == http.StatusServiceUnavailable && i < len(c.endpoints)-1 {
			*doubt = true // the store may have written after the machine's patience ended
			errs = append(errs, fmt.Errorf("%s: %w", e.name, readError(resp)))
			continue
		}
		c.mu.Lock()
		c.good = n
		c.mu.Unlock()
		if resp.StatusCode >= 400 {
			err := readError(resp)
			err.Doubt = *doubt
			return nil, false, err
		}
		return resp, false, nil
	}
	return nil, again, fmt.Errorf("no machine of the cluster answers:\n%w", errors.Join(errs...))
}

func readError(resp *http.Response) *Error {
	defer resp.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	var f struct {
		Error struct{ Message string }
	}
	if json.Unmarshal(data, &f) != nil || f.Error.Message == "" {
		f.Error.Message = strings.TrimSpace(resp.Status + ": " + string(data))
	}
	return &Error{Status: resp.StatusCode, Message: f.Error.Message}
}

func call[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return out, err
		}
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&out)
	return out, err
}

// Units lists units: all, or those named, with their texts if asked for. With
// after > 0 it waits, half a minute at most, for a newer revision.
func (c *Client) Units(ctx context.Context, names []string, texts bool, after int64) (api.UnitList, error) {
	q := url.Values{"unit": names}
	if texts {
		q.Set("text", "1")
	}
	if after > 0 {
		q.Set("after", strconv.FormatInt(after, 10))
	}
	return call[api.UnitList](ctx, c, http.MethodGet, "/plasmid/v1/units?"+q.Encode(), nil)
}

// Apply changes units, all or none, and returns the revision, 0 if nothing had
// to change.
func (c *Client) Apply(ctx context.Context, changes []api.Change) (int64, error) {
	a, err := call[api.Applied](ctx, c, http.MethodPost, "/plasmid/v1/units", changes)
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusNotFound && e.Doubt {
		// What is not there may have been deleted by the machine asked before.
		changes = slices.Clone(changes)
		for i := range changes {
			changes[i].Absent = changes[i].Delete
		}
		a, err = call[api.Applied](ctx, c, http.MethodPost, "/plasmid/v1/units", changes)
	}
	return a.Revision, err
}

// Events calls f for everything that happens from now on to the units named,
// or to any, until ctx ends, f returns an error or the machine asked goes.
func (c *Client) Events(ctx context.Context, units []string, machine string, f func(api.Event) error) error {
	q := url.Values{"unit": units}
	if machine != "" {
		q.Set("machine", machine)
	}
	resp, err := c.do(ctx, http.MethodGet, "/plasmid/v1/events?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var e api.Event
		if err := dec.Decode(&e); err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

// Audit returns the newest entries of the audit log, oldest first.
func (c *Client) Audit(ctx context.Context, lines int) (api.AuditAnswer, error) {
	return call[api.AuditAnswer](ctx, c, http.MethodGet, "/plasmid/v1/audit?lines="+strconv.Itoa(lines), nil)
}

// Restart stops a unit and starts it again where it is.
func (c *Client) Restart(ctx context.Context, name string) error {
	_, err := call[map[string]string](ctx, c, http.MethodPost, "/plasmid/v1/units/"+url.PathEscape(name)+"/restart", nil)
	return err
}

// Machines lists the machines.
func (c *Client) Machines(ctx context.Context) ([]api.Machine, error) {
	return call[[]api.Machine](ctx, c, http.MethodGet, "/plasmid/v1/machines", nil)
}

// Reasons says why units run nowhere.
func (c *Client) Reasons(ctx context.Context, names []string) (map[string][]schedule.Verdict, error) {
	return call[map[string][]schedule.Verdict](ctx, c, http.MethodGet, "/plasmid/v1/reasons?"+url.Values{"unit": names}.Encode(), nil)
}

// Status copies what systemctl status says of a unit.
func (c *Client) Status(ctx context.Context, w io.Writer, name, machine string) error {
	return c.copy(ctx, w, name, "status", url.Values{"machine": {machine}})
}

// Journal copies a unit's log.
func (c *Client) Journal(ctx context.Context, w io.Writer, name, machine string, lines int, follow bool, output string) error {
	q := url.Values{"machine": {machine}, "lines": {strconv.Itoa(lines)}, "output": {output}}
	if follow {
		q.Set("follow", "1")
	}
	return c.copy(ctx, w, name, "journal", q)
}

func (c *Client) copy(ctx context.Context, w io.Writer, name, what string, q url.Values) error {
	resp, err := c.do(ctx, http.MethodGet, "/plasmid/v1/units/"+url.PathEscape(name)+"/"+what+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

// Endpoints returns the names of all endpoints.
func (c *Client) Endpoints() []string {
	var out []string
	for _, e := range c.endpoints {
		out = append(out, e.name)
	}
	return out
}

// Reboots shows the reboot locks, and what the machines say.
func (c *Client) Reboots(ctx context.Context) (api.Reboot, error) {
	return call[api.Reboot](ctx, c, http.MethodGet, "/plasmid/v1/reboots", nil)
}

// RebootStatus is one machine's.
func (c *Client) RebootStatus(ctx context.Context, machine string) (reboot.Status, error) {
	return c.reboot(ctx, http.MethodGet, machine)
}

// RebootNow has a machine reboot as soon as it gets the lock.
func (c *Client) RebootNow(ctx context.Context, machine string) (reboot.Status, error) {
	return c.reboot(ctx, http.MethodPost, machine)
}

// CancelReboot takes back what RebootNow asked for.
func (c *Client) CancelReboot(ctx context.Context, machine string) (reboot.Status, error) {
	return c.reboot(ctx, http.MethodDelete, machine)
}

func (c *Client) reboot(ctx context.Context, method, machine string) (reboot.Status, error) {
	return call[reboot.Status](ctx, c, method, "/plasmid/v1/machines/"+url.PathEscape(machine)+"/reboot", nil)
}

// RebootLock takes a machine's reboot lock, or gives it back.
func (c *Client) RebootLock(ctx context.Context, machine string, lock bool) (api.RebootGroup, error) {
	method := http.MethodPut
	if !lock {
		method = http.MethodDelete
	}
	return call[api.RebootGroup](ctx, c, method, "/plasmid/v1/machines/"+url.PathEscape(machine)+"/reboot-lock", nil)
}

// SetRebootMax sets how many of a group may reboot at a time; nil leaves it to
// the machines' configuration.
func (c *Client) SetRebootMax(ctx context.Context, group string, limit *int) (api.RebootGroup, error) {
	return call[api.RebootGroup](ctx, c, http.MethodPut, "/plasmid/v1/reboots/"+url.PathEscape(group), api.RebootMax{Max: limit})
}
