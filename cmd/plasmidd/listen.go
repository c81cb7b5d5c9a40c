package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"plasmid/runtime/node"
)

// listener is one address with what it serves.
type listener struct {
	net.Listener
	server *http.Server
}

// listen opens all listeners before any is served. The private address takes
// certificates only, the socket root only, and what Docker pulls from is on
// loopback.
func listen(c *node.Config, tlsConfig *tls.Config, handler, registry http.Handler, registryAddr string) ([]listener, error) {
	var out []listener
	add := func(l net.Listener, err error, h http.Handler) error {
		if err != nil {
			return err
		}
		out = append(out, listener{l, &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}})
		return nil
	}
	if err := os.Remove(node.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	socket, err := net.Listen("unix", node.Socket)
	if err == nil {
		err = os.Chmod(node.Socket, 0o600)
	}
	if err := add(socket, err, handler); err != nil {
		return nil, err
	}
	// The machine's address may come a moment after the daemon.
	private, err := (&net.ListenConfig{Control: freeBind}).Listen(context.Background(), "tcp4", net.JoinHostPort(c.PrivateIPv4, strconv.Itoa(node.APIPort)))
	if err == nil {
		private = tls.NewListener(private, tlsConfig)
	}
	if err := add(private, err, handler); err != nil {
		return nil, err
	}
	local, err := net.Listen("tcp4", registryAddr)
	return out, add(local, err, registry)
}

// serve serves until ctx ends.
func (l listener) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if l.server.Shutdown(sctx) != nil {
			l.server.Close()
		}
	})
	defer stop()
	err := l.server.Serve(l.Listener)
	if errors.Is(err, http.ErrServerClosed) {
		<-ctx.Done()
		return nil
	}
	return err
}
