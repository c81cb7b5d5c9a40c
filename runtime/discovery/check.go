// Package discovery finds out whether units are ready, and keeps the keys of
// those that are in the store.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"time"

	"plasmid/runtime/container"
	"plasmid/runtime/unit"
)

// Containers is what a check asks of Docker.
type Containers interface {
	Inspect(ctx context.Context, name string) (container.State, error)
}

// probeOnce runs a unit's readiness check. nil means ready.
func probeOnce(ctx context.Context, r unit.Ready, c container.State) error {
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
		out, err := exec.CommandContext(ctx, r.Command[0], r.Command[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %.200s", err, out)
		}
		return nil
	}
	switch {
	case c.Exists && !c.Running:
		return errors.New("its container does not run yet")
	case c.Exists && c.Health != "" && c.Health != "healthy":
		return fmt.Errorf("Docker's health check says %s", c.Health)
	}
	return nil
}

func probeHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// address is where a check connects to: a container by its own address, which
// works whether or not the port is published.
func address(r unit.Ready, c container.State) string {
	host := r.Host
	if host == "" {
		if host = "127.0.0.1"; c.Exists && c.IP != "" {
			host = c.IP
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(r.Port))
}

// failuresToUnready in a row are needed before a ready unit counts as unready:
// one may be chance.
const failuresToUnready = 2

// untilReady is the longest pause between checks of a unit that is not ready:
// most are soon.
const untilReady = 250 * time.Millisecond

// watchReady checks until ctx ends. It calls report with the first outcome and
// at every change.
func watchReady(ctx context.Context, spec unit.Spec, inspect func(context.Context) (container.State, error), report func(ready bool, c container.State, why error)) {
	ready, reported, failures := false, false, 0
	for {
		c, err := inspect(ctx)
		if err == nil {
			err = probeOnce(ctx, spec.Ready, c)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
		} else {
			failures++
		}
		now := err == nil || ready && failures < failuresToUnready
		if now != ready || !reported {
			ready, reported = now, true
			report(ready, c, err)
		}
		pause := spec.Ready.Interval
		switch {
		case !ready:
			pause = min(pause, untilReady)
		case failures > 0:
			pause /= 4
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}
