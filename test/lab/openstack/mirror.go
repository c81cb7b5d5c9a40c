package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"plasmid/image"
	"plasmid/provision/config"
	"plasmid/test/lab/openstack/conf"
)

// mirrorURL is where servers find Debian's packages while the mirror runs.
const mirrorURL = "http://" + conf.IP + ":3142/debian"

func mirrorCommand(o *options) *cobra.Command {
	var address bool
	c := &cobra.Command{
		Use:   "mirror",
		Short: "let the lab's servers fetch Debian packages, until it is ended",
		Long: `Passes on what this host's apt fetches packages from, at ` + mirrorURL + `
in the lab's network. Servers of the lab reach nothing else outside.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if address {
				fmt.Println(mirrorURL)
				return nil
			}
			s, err := o.site()
			if err != nil {
				return err
			}
			return s.mirror(c.Context())
		},
	}
	c.Flags().BoolVar(&address, "address", false, "print the address and do nothing else")
	return c
}

// mirror listens in the lab's network, and asks in this host's.
func (s site) mirror(ctx context.Context) error {
	pid := s.process1()
	if pid == 0 {
		return errNotUp
	}
	from, err := hostMirror(ctx)
	if err != nil {
		return err
	}
	at, err := url.Parse(mirrorURL)
	if err != nil {
		return err
	}
	l, err := listenIn(pid, at.Host)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mirrorHandler(at, from), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(os.Stderr, "mirror: ", 0)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// hostMirror is what this host's apt fetches packages from.
func hostMirror(ctx context.Context) (*url.URL, error) {
	mirror, _, err := image.AptPolicy(ctx, config.Image{})
	if err != nil {
		return nil, err
	}
	if mirror == "" {
		return nil, errors.New("this host's apt has no list of Debian's packages; run: apt-get update")
	}
	return url.Parse(mirror)
}

func mirrorHandler(at, from *url.URL) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = from.Scheme, from.Host
		r.Out.URL.Path = strings.TrimSuffix(from.Path, "/") + strings.TrimPrefix(r.In.URL.Path, at.Path)
		r.Out.URL.RawPath, r.Out.Host = "", from.Host
	}}
}

// listenIn listens in the network namespace of a process. A socket stays in the
// one that it was made in, whatever becomes of the thread.
func listenIn(pid int, address string) (net.Listener, error) {
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, fmt.Errorf("entering the lab's network: %w", err)}
			return
		}
		l, err := net.Listen("tcp4", address)
		done <- result{l, err}
	}()
	r := <-done
	return r.l, r.err
}
