// Package discovery measures lookups of names: go test -bench . ./bench/discovery
package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/discovery"
	"plasmid/runtime/store/etcdtest"
)

// BenchmarkLookup compares a read of a service's keys from etcd, which a DNS
// server without an index does for every query, with a lookup over UDP.
func BenchmarkLookup(b *testing.B) {
	const services, instances = 200, 5
	client := etcdtest.Start(b).Client()
	put := map[string]string{}
	for s := range services {
		for i := range instances {
			key := fmt.Sprintf("app/s%d/%d", s, i)
			put[key] = fmt.Sprintf("10.0.0.%d:%d", i+1, 5000+s)
			if _, err := client.Put(b.Context(), "/apps/"+key, put[key]); err != nil {
				b.Fatal(err)
			}
		}
	}
	var etcd time.Duration
	b.Run("etcd", func(b *testing.B) {
		n := 0
		for b.Loop() {
			resp, err := client.Get(b.Context(), fmt.Sprintf("/apps/app/s%d/", n%services), clientv3.WithPrefix())
			if err != nil || len(resp.Kvs) != instances {
				b.Fatal(resp, err)
			}
			n++
		}
		etcd = b.Elapsed() / time.Duration(b.N)
	})
	b.Run("dns", func(b *testing.B) {
		index := discovery.NewIndex()
		index.Update(true, put, nil)
		address := serve(b, index)
		conn, err := dns.Dial("udp4", address)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		dc, n := &dns.Client{}, 0
		for b.Loop() {
			a, _, err := dc.ExchangeWithConn(new(dns.Msg).SetQuestion(fmt.Sprintf("s%d.app.plasmid.", n%services), dns.TypeA), conn)
			if err != nil || len(a.Answer) != instances {
				b.Fatal(a, err)
			}
			n++
		}
		b.ReportMetric(float64(b.Elapsed()/time.Duration(b.N))/float64(etcd), "times-etcd")
	})
}

func serve(b *testing.B, index *discovery.Index) (address string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	run, err := (&discovery.DNS{Index: index, Logger: slog.New(slog.DiscardHandler)}).Listen(b.Context(), address)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return address
}
