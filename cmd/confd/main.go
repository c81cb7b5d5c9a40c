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

	"plasmid/internal/version"
	"plasmid/runtime/template"
)

func main() {
	if os.Getpid() == 1 {
		os.Exit(reap())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "confd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "validate" {
		return validate(ctx, args[1:], stdout, stderr)
	}
	s, err := parseSettings(args, stderr)
	if err != nil {
		return err
	}
	if s.version {
		fmt.Fprintf(stdout, "confd %s (Plasmid)\n", version.Version)
		return nil
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	for _, w := range s.warnings {
		log.Warn(w)
	}
	options := template.Options{Noop: s.noop, SyncOnly: s.syncOnly, KeepStageFile: s.keepStageFile, Logger: log, Resync: s.interval}
	if s.diff {
		options.Diff = stdout
	}
	if s.metrics != "" {
		m, err := serveMetrics(ctx, s.metrics, log)
		if err != nil {
			return err
		}
		options.Metrics = m
	}
	load := func() ([]*template.Resource, error) { return template.LoadResources(s.confdir, s.prefix) }
	rs, bad := load()
	if len(rs) == 0 {
		return bad
	}
	store, closeStore, err := open(ctx, s, log)
	if err != nil {
		return err
	}
	defer closeStore()
	switch {
	case s.onetime:
		return errors.Join(bad, template.Once(ctx, store, rs, options))
	case s.watch:
		if bad != nil {
			log.Error("resources with errors are left out", "err", bad)
		}
		template.Watch(ctx, store, rs, options)
	default:
		template.Interval(ctx, store, load, s.interval, options)
	}
	return nil
}

// open opens the store. One that can't be reached yet is an error only for
// -onetime: otherwise it is waited for.
func open(ctx context.Context, s *settings, log *slog.Logger) (template.Store, func(), error) {
	switch s.backend {
	case "env":
		return template.Env{}, func() {}, nil
	case "file":
		return template.Files{Names: s.files, Filter: s.filter}, func() {}, nil
	}
	if err := s.findNodes(ctx); err != nil {
		return nil, nil, err
	}
	retry := time.Second
	for {
		client, err := s.dial()
		if err == nil {
			return &template.Etcd{Client: client}, func() { client.Close() }, nil
		}
		if s.onetime {
			return nil, nil, err
		}
		log.Error("etcd can't be used; trying again", "after", retry, "err", err)
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(retry):
		}
		retry = min(2*retry, 30*time.Second)
	}
}
