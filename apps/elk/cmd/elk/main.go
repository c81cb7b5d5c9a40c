// Command elk is the parts of the ELK app that are its own: a collector of
// events, a forwarder of log lines, a page, and traffic.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"plasmid/apps/elk/collector"
	"plasmid/apps/elk/forwarder"
	"plasmid/apps/elk/lumberjack"
	"plasmid/apps/elk/page"
	"plasmid/apps/elk/traffic"
)

var parts = map[string]func(context.Context, []string) error{
	"collector": runCollector, "forwarder": runForwarder, "page": runPage, "traffic": runTraffic,
}

func main() {
	if len(os.Args) < 2 || parts[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: elk collector|forwarder|page|traffic [flags]; each has -help")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := parts[os.Args[1]](ctx, os.Args[2:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "elk %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

var log = slog.New(slog.NewTextHandler(os.Stderr, nil))

// config is what confd writes. It is read anew whenever it is needed, so that
// a change needs no restart.
type config struct {
	Store     string `json:"store"`     // URL
	Collector string `json:"collector"` // host:port
	Target    string `json:"target"`    // URL
}

// from returns a function that reads one setting of the file.
func from(file string, setting func(config) string) func() (string, error) {
	return func() (string, error) {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		var c config
		if err := json.Unmarshal(data, &c); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		if v := setting(c); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("%s: nothing is registered yet", file)
	}
}

// keys adds the flags of the certificate that collector and forwarders share.
func keys(f *flag.FlagSet) (cert, key *string) {
	return f.String("cert", "/run/app/secrets/lumberjack.crt", "certificate, PEM"), f.String("key", "/run/app/secrets/lumberjack.key", "its key, PEM")
}

func runCollector(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("elk collector", flag.ContinueOnError)
	file := f.String("config", "/etc/elk.json", "`file` that says where the store is")
	listen := f.String("listen", ":5044", "`address` for Lumberjack")
	settle := f.Duration("settle", 4*time.Second, "how long after its answer the store has events on its disk for sure")
	cert, key := keys(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	server, _, err := lumberjack.TLS(*cert, *key)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	c := collector.Collector{Store: from(*file, func(c config) string { return c.Store }), Settle: *settle, Log: log}
	return c.Serve(ctx, tls.NewListener(l, server))
}

func runForwarder(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("elk forwarder", flag.ContinueOnError)
	file := f.String("config", "/etc/elk.json", "`file` that says where the collector is")
	logs := f.String("files", "/var/log/app/*.log*", "`pattern` of the files to follow")
	registry := f.String("registry", "", "`file` to remember what was sent (default: .registry beside the files)")
	instance := f.String("instance", os.Getenv("INSTANCE"), "name of the `instance` whose files they are")
	host := f.String("host", os.Getenv("MACHINE"), "name of the `machine`")
	drain := f.Duration("drain", 15*time.Second, "how long to go on sending when told to stop")
	cert, key := keys(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	_, client, err := lumberjack.TLS(*cert, *key)
	if err != nil {
		return err
	}
	if *registry == "" {
		*registry = filepath.Join(filepath.Dir(*logs), ".registry")
	}
	fw := forwarder.Forwarder{
		Pattern: *logs, Registry: *registry, Host: *host,
		Fields:    map[string]string{"app": "sinatra", "instance": *instance, "host": *host},
		Collector: from(*file, func(c config) string { return c.Collector }),
		TLS:       client, Drain: *drain, Log: log,
	}
	return fw.Run(ctx)
}

func runPage(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("elk page", flag.ContinueOnError)
	listen := f.String("listen", ":5601", "`address` to serve on")
	store := f.String("store", "http://127.0.0.1:9428", "`URL` of the store")
	if err := f.Parse(args); err != nil {
		return err
	}
	h, err := page.Handler(*store)
	if err != nil {
		return err
	}
	s := &http.Server{Addr: *listen, Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
	})
	defer stop()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func runTraffic(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("elk traffic", flag.ContinueOnError)
	file := f.String("config", "/etc/elk.json", "`file` that says where to go")
	visitors := f.Int("visitors", 5, "how many visitors there are")
	pause := f.Duration("pause", time.Second, "between two requests of a visitor, on average")
	if err := f.Parse(args); err != nil {
		return err
	}
	t := traffic.Traffic{Target: from(*file, func(c config) string { return c.Target }), Visitors: *visitors, Pause: *pause, Log: log}
	t.Run(ctx)
	return nil
}
