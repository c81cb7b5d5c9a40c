// Command galera runs one member of a MariaDB Galera cluster that makes,
// joins and recovers itself through etcd. It is what the image of the app
// galera runs; see docs/galera.md.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"plasmid/apps/galera/member"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "galera:", err)
		os.Exit(1)
	}
}

// settings come from the unit, by the environment.
type settings struct {
	member.Config
	ready     string // address of the readiness answer
	endpoints string
	access    string // directory with the app's certificate
}

func command() *cobra.Command {
	s := settings{
		Config:    member.Config{App: os.Getenv("APP"), Machine: os.Getenv("MACHINE"), Address: os.Getenv("ADDRESS"), Dir: "/var/lib/galera"},
		endpoints: os.Getenv("ETCD_ENDPOINTS"),
	}
	root := &cobra.Command{
		Use: "galera", Short: "A member of a MariaDB Galera cluster",
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			for _, need := range []struct{ name, value string }{{"APP", s.App}, {"MACHINE", s.Machine}, {"ADDRESS", s.Address}, {"ETCD_ENDPOINTS", s.endpoints}} {
				if need.value == "" {
					return fmt.Errorf("%s is not set in the environment; see the unit galera@.service", need.name)
				}
			}
			return nil
		},
	}
	root.PersistentFlags().StringVar(&s.Dir, "dir", s.Dir, "`directory` that stays on the machine")
	root.PersistentFlags().StringVar(&s.access, "access", "/run/etcd", "`directory` with the app's certificate for etcd")
	run := &cobra.Command{
		Use: "run", Short: "Run the member of this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },
	}
	run.Flags().StringVar(&s.ready, "ready", "127.0.0.1:3380", "`address` that answers whether the member is ready")
	root.AddCommand(run, &cobra.Command{
		Use: "status", Short: "Show what etcd knows of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.with(cmd.Context(), func(ctx context.Context, store *member.Store) error {
				v, err := store.View(ctx)
				if err != nil {
					return err
				}
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(v)
			})
		},
	}, &cobra.Command{
		Use: "forget MEMBER", Short: "Give up a member that will never come back", Args: cobra.ExactArgs(1),
		Long: `Gives up a member, so that a cluster that is down does not wait for it any more.
Writes that only that member had on its disk are lost. A cluster that runs
forgets members by itself.`,
		Example: "  galera status\n  galera forget demo-core-3-k7q2mz",
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.with(cmd.Context(), func(ctx context.Context, store *member.Store) error {
				return store.GiveUp(ctx, args[0])
			})
		},
	}, &cobra.Command{
		Use: "adopt", Short: "Go on with the data that is on the machines", Args: cobra.NoArgs,
		Long: `Goes on with the data that an earlier deployment of the app has left on the
machines, and that etcd knows nothing of. Run it when all members that have such
data are there (galera status): the furthest of those starts the cluster.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.with(cmd.Context(), func(ctx context.Context, store *member.Store) error {
				return store.Adopt(ctx)
			})
		},
	})
	return root
}

func (s *settings) client() (*clientv3.Client, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.access, "client.crt"), filepath.Join(s.access, "client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(s.access, "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("ca.crt has no certificate")
	}
	return clientv3.New(clientv3.Config{
		Endpoints: strings.Split(s.endpoints, ","), DialTimeout: 3 * time.Second, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{pair}},
	})
}

// with gives f a look at etcd for a command.
func (s *settings) with(ctx context.Context, f func(context.Context, *member.Store) error) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return f(ctx, member.NewStore(c, "/apps/"+s.App, "operator"))
}

func (s *settings) run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{} // the journal has it
		}
		return a
	}}))
	c, err := s.client()
	if err != nil {
		return err
	}
	defer c.Close()
	id, unlock, err := member.Open(s.Config)
	if err != nil {
		return err
	}
	defer unlock()
	sup, err := member.New(s.Config, id, member.NewStore(c, "/apps/"+s.App, id), log)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if why := sup.Ready(); why != nil {
			http.Error(w, why.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	server := &http.Server{Addr: s.ready, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		failed <- server.ListenAndServe()
		cancel()
	}()
	err = sup.Run(ctx)
	_ = server.Close()
	if lerr := <-failed; !errors.Is(lerr, http.ErrServerClosed) {
		err = errors.Join(err, lerr)
	}
	return err
}
