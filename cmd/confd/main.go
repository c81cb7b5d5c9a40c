// Command confd keeps files in step with keys in etcd. It takes the place of
// the confd of old: the same flags, template resources and functions, over
// etcd v3.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"plasmid/runtime/template"
)

func main() {
	if os.Getpid() == 1 {
		os.Exit(reap())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "confd:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	s, err := parseSettings(args, stderr)
	if err != nil {
		return err
	}
	if s.version {
		fmt.Println("confd (plasmid)")
		return nil
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	store, err := open(s)
	if err != nil {
		return err
	}
	options := template.Options{Noop: s.noop, SyncOnly: s.syncOnly, KeepStageFile: s.keepStageFile, Logger: log}
	load := func() ([]*template.Resource, error) { return template.LoadResources(s.confdir, s.prefix) }
	rs, err := load()
	if err != nil {
		return err
	}
	switch {
	case s.onetime:
		return template.Once(ctx, store, rs, options)
	case s.watch:
		template.Watch(ctx, store, rs, options)
	default:
		template.Interval(ctx, store, load, s.interval, options)
	}
	return nil
}

func open(s *settings) (template.Store, error) {
	if s.backend == "env" {
		return template.Env{}, nil
	}
	tls, err := s.tlsConfig()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            s.nodes,
		TLS:                  tls,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Username:             s.username,
		Password:             s.password,
		Logger:               zap.NewNop(), // errors come back from the calls
	})
	if err != nil {
		return nil, fmt.Errorf("etcd at %v: %w", s.nodes, err)
	}
	return template.Etcd{Client: client}, nil
}
