package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"plasmid/internal/version"
	"plasmid/runtime/agent"
	"plasmid/runtime/api"
	"plasmid/runtime/appaccess"
	"plasmid/runtime/container"
	"plasmid/runtime/engine"
	"plasmid/runtime/images"
	"plasmid/runtime/metrics"
	"plasmid/runtime/node"
	"plasmid/runtime/store"
	"plasmid/runtime/systemd"
)

// run wires the parts of the daemon and keeps them going until ctx ends.
func run(ctx context.Context, c *node.Config, log *slog.Logger) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	machine, err := describe(c)
	if err != nil {
		return err
	}
	policy, err := c.RebootPolicy()
	if err != nil {
		return err
	}
	machine.RebootGroup = policy.Group
	clientTLS, serverTLS, err := credentials()
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, store.Config{Endpoints: c.EtcdEndpoints, TLS: clientTLS, Logger: log})
	if err != nil {
		return err
	}
	defer st.Close()
	mirror := st.Mirror(ctx)
	sysd, err := systemd.New(ctx, filepath.Join(node.RunDir, "units"))
	if err != nil {
		return err
	}
	defer sysd.Close()
	docker, err := container.New()
	if err != nil {
		return err
	}
	defer docker.Close()
	blobs, err := images.Open(filepath.Join(node.StateDir, "images"))
	if err != nil {
		return err
	}
	peers := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}}
	registry := net.JoinHostPort("127.0.0.1", strconv.Itoa(node.ImagePort))

	eng := engine.New(engine.Config{Store: st, Mirror: mirror, Probe: prober(clientTLS), Lease: c.Lease(), Logger: log})
	sessions := make(chan *store.Session, 1)
	apps := &appaccess.Writer{Store: st, Dir: filepath.Join(node.RunDir, "apps"), Endpoints: c.EtcdEndpoints, Logger: log}
	ag, err := agent.New(agent.Config{
		Machine: machine, Store: st, Systemd: sysd, Containers: docker,
		Images:        &images.Fetcher{Store: blobs, Docker: docker, Client: peers, Registry: registry, Peers: func() []string { return others(mirror.View(), machine.ID) }},
		Apps:          apps,
		KillContainer: docker.Kill,
		Guard:         func(ctx context.Context) error { return startGuard(ctx, sysd) },
		Claims:        st.Claims(machine.ID, 3*c.Lease()),
		Dir:           node.StateDir, Lease: c.Lease(), Logger: log,
		OnSession: func(ss *store.Session) { sessions <- ss },
	})
	if err != nil {
		return err
	}
	counted := metrics.New(metrics.Source{
		Machine: machine.ID, Version: version.Version, View: mirror.View, Current: mirror.Current,
		Engine: eng.Counts, Unplaced: eng.Unplaced,
	})
	reboots, err := rebooter(c, policy, machine, st, mirror, sysd, log)
	if err != nil {
		return err
	}
	handler := api.New(api.Config{
		Audit: api.JournalAudit{}, Metrics: counted.Handler(), Observe: counted.Observe,
		Store: st, Mirror: mirror, Units: ag, Secrets: st, MachineID: machine.ID, Version: version.Version,
		Unplaced: eng.Unplaced, Waiting: eng.Waiting, Peers: peers, Blobs: blobs.Blobs(), Reboots: reboots, Logger: log,
	})
	listeners, err := listen(c, serverTLS, handler, blobs.Registry(), registry)
	if err != nil {
		return err
	}

	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() { stop(l.serve(ctx)) })
	}
	wg.Go(func() { campaign(ctx, eng, sessions, log) })
	wg.Go(func() { watchdog(ctx) })
	wg.Go(func() { reboots.Run(ctx) })
	wg.Go(func() { apps.Run(ctx) })
	wg.Go(func() {
		(&images.Collector{
			Store: blobs, Docker: docker, Registry: registry,
			Texts: func() ([]string, bool) { return texts(mirror) }, Logger: log,
		}).Run(ctx)
	})
	wg.Go(func() { answerNames(ctx, st, log) })
	wg.Go(func() { renderTemplates(ctx, st.Client(), counted.Registerer(), log) })
	wg.Go(func() {
		if err := ag.Run(ctx); ctx.Err() == nil {
			stop(err)
		}
	})
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("telling systemd that the daemon is ready", "err", err)
	}
	log.Info("started", "machine", machine.ID, "name", machine.Name, "version", version.Version)
	<-ctx.Done()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// texts are those of all units, as they are and as machines have them, and
// whether the store says so now.
func texts(m *store.Mirror) ([]string, bool) {
	current, _ := m.Current()
	view := m.View()
	if !current || view.Identity.ID == "" || view.Identity.Version != store.SchemaVersion {
		return nil, false
	}
	var all []string
	for _, u := range view.Units {
		all = append(all, u.Text)
	}
	for _, on := range view.Placements {
		for _, p := range on {
			all = append(all, p.Text, p.Previous)
		}
	}
	return all, true
}

// describe gathers the facts that the machine gives to the cluster.
func describe(c *node.Config) (store.Machine, error) {
	id, err := node.MachineID()
	if err != nil {
		return store.Machine{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return store.Machine{}, err
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return store.Machine{}, err
	}
	return store.Machine{
		ID: id, Name: c.Name, PrivateIPv4: c.PrivateIPv4, PublicIPv4: c.PublicIPv4,
		Endpoint: net.JoinHostPort(c.PrivateIPv4, strconv.Itoa(node.APIPort)),
		Metadata: c.Metadata, BootID: strings.TrimSpace(string(boot)), Version: version.Version,
		CPUs: runtime.NumCPU(), MemoryMiB: int(info.Totalram * uint64(info.Unit) >> 20),
	}, nil
}

// credentials are the machine's for both directions.
func credentials() (client, server *tls.Config, err error) {
	pair, err := tls.LoadX509KeyPair(node.CertFile, node.KeyFile)
	if err != nil {
		return nil, nil, err
	}
	ca, err := os.ReadFile(node.CAFile)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, nil, fmt.Errorf("%s holds no certificate", node.CAFile)
	}
	client = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server = &tls.Config{ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	return client, server, nil
}

// prober asks a machine's API whether it is alive. A machine that refuses the
// connection is: only its daemon is not. One that accepts it and says nothing may
// be, for a while.
func prober(c *tls.Config) func(context.Context, store.Machine) error {
	// No connection is kept: an old one would say nothing of now.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
	return func(ctx context.Context, m store.Machine) error {
		var accepted atomic.Bool
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			ConnectDone: func(_, _ string, err error) { accepted.Store(err == nil) },
		})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+m.Endpoint+"/plasmid/v1/health", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return nil
		case err != nil && accepted.Load():
			return fmt.Errorf("%w: %w", engine.ErrHangs, err)
		case err != nil:
			return err
		}
		return resp.Body.Close()
	}
}

// others are the endpoints of all other machines that report.
func others(v *store.View, self string) []string {
	var out []string
	for id, m := range v.Machines {
		if id != self {
			out = append(out, m.Endpoint)
		}
	}
	return out
}

// campaign runs the engine with one session after the other.
func campaign(ctx context.Context, e *engine.Engine, sessions <-chan *store.Session, log *slog.Logger) {
	var ss *store.Session
	for {
		if ss == nil {
			select {
			case <-ctx.Done():
				return
			case ss = <-sessions:
			}
		}
		err := e.Run(ctx, ss)
		if ctx.Err() != nil {
			return
		}
		log.Warn("the engine stopped; campaigning again", "err", err)
		select {
		case <-ctx.Done():
			return
		case ss = <-sessions:
		case <-ss.Done():
			ss = nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// watchdog tells systemd that the daemon lives, as often as it asks for.
func watchdog(ctx context.Context) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	t := time.NewTicker(every / 3)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}
