package main

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"time"

	"plasmid/runtime/discovery"
	"plasmid/runtime/node"
	"plasmid/runtime/store"
)

// answerNames keeps an index of services from the store and answers DNS from
// it until ctx ends. A port that something else has is no reason for the daemon
// not to start: units matter more than names.
func answerNames(ctx context.Context, st *store.Store, log *slog.Logger) {
	index := discovery.NewIndex()
	go func() {
		_ = st.FollowRegistrations(ctx, func(r store.Registrations) { index.Update(r.Snapshot, r.Put, r.Deleted) })
	}()
	const again = 5 * time.Second
	server := &discovery.DNS{Index: index, Logger: log}
	for {
		serve, err := server.Listen(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(node.DNSPort)))
		if err == nil {
			err = serve(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		log.Error("names of services are not answered; trying again", "after", again, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
	}
}
