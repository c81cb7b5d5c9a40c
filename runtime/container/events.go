package container

import (
	"context"
	"strings"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

const firstRetry, lastRetry = 250 * time.Millisecond, 10 * time.Second

// Events calls f with the name of every container that started, ended or
// changed its health, until ctx ends. An empty name means that events may have
// been missed: any container may have changed. While Docker is down it tries
// again, at ten seconds' intervals at most.
func (d *Docker) Events(ctx context.Context, f func(container string)) error {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		if d.follow(ctx, f) {
			retry = firstRetry
		}
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// follow reads events until the stream breaks, and reports whether there was
// one.
func (d *Docker) follow(ctx context.Context, f func(container string)) (connected bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The stream of a Docker that is down ends before it began.
	pctx, pcancel := context.WithTimeout(ctx, callTimeout)
	_, err := d.client.Ping(pctx)
	pcancel()
	if err != nil {
		return false
	}
	var what []filters.KeyValuePair
	what = append(what, filters.Arg("type", string(events.ContainerEventType)))
	for _, action := range []events.Action{events.ActionStart, events.ActionDie, events.ActionHealthStatus, events.ActionDestroy} {
		what = append(what, filters.Arg("event", string(action)))
	}
	stream, errs := d.client.Events(ctx, events.ListOptions{Filters: filters.NewArgs(what...)})
	f("")
	for {
		select {
		case e := <-stream:
			if name := strings.TrimPrefix(e.Actor.Attributes["name"], "/"); name != "" {
				f(name)
			}
		case <-errs:
			return true
		}
	}
}
