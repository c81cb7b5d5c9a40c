package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"plasmid/runtime/container"
	"plasmid/runtime/unit"
)

// probe runs a unit's readiness check once. nil means ready. It takes no
// longer than the check's Timeout.
func probe(ctx context.Context, spec unit.Spec, c container.State) error {
	switch {
	case spec.Container != "" && !c.Exists:
		return fmt.Errorf("its container %s does not exist yet", spec.Container)
	case c.Exists && !c.Running:
		return errors.New("its container does not run yet")
	}
	r := spec.Ready
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	switch r.Kind {
	case "http":
		return probeHTTP(ctx, "http://"+address(r, c)+r.Path)
	case "tcp":
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address(r, c))
		if err != nil {
			return err
		}
		return conn.Close()
	case "exec":
		return probeExec(ctx, r.Command)
	}
	if c.Health != "" && c.Health != "healthy" {
		return fmt.Errorf("Docker's health check says %s", c.Health)
	}
	return nil
}

// direct asks the unit itself: no proxy, no connection of before, and a
// redirection is an answer.
var direct = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func probeHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := direct.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// shown is how much of a failed command's output is shown, in bytes.
const shown = 200

func probeExec(ctx context.Context, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	// A child of the command may hold its output open for ever.
	cmd.WaitDelay = 100 * time.Millisecond
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("%s did not end in time", command[0])
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %.*s", command[0], err, shown, strings.TrimSpace(string(out)))
	}
	return nil
}

// address is where a check connects to: a container by its own address, for
// Docker accepts connections to a published port before anything listens
// behind it. A container without an address of its own uses the machine's.
func address(r unit.Ready, c container.State) string {
	host, port := r.Host, r.Port
	switch {
	case host != "":
	case c.IP != "":
		host = c.IP
	default:
		host = "127.0.0.1"
		if outside, ok := c.Ports[port]; ok {
			port = outside
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}
