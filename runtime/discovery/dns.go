package discovery

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// ttl of all answers, in seconds. What is unready is gone from the index within
// a second; nobody is to remember it for longer.
const ttl = 1

// DNS answers for Zone from an index, and for nothing else.
type DNS struct {
	Index  *Index
	Logger *slog.Logger
}

// Listen opens the address, for UDP and TCP.
func (d *DNS) Listen(ctx context.Context, address string) (serve func(context.Context) error, err error) {
	var lc net.ListenConfig
	tcp, err := lc.Listen(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	// The same port, also when any was asked for.
	udp, err := lc.ListenPacket(ctx, "udp4", tcp.Addr().String())
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return func(ctx context.Context) error { return d.serve(ctx, tcp, udp) }, nil
}

func (d *DNS) serve(ctx context.Context, tcp net.Listener, udp net.PacketConn) error {
	servers := []*dns.Server{{Listener: tcp, Handler: d, ReadTimeout: 5 * time.Second}, {PacketConn: udp, Handler: d}}
	end := func() { tcp.Close(); udp.Close() }
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var wg sync.WaitGroup
	var errs [2]error
	for i, s := range servers {
		wg.Go(func() {
			errs[i] = s.ActivateAndServe()
			end() // one without the other is half a server
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	if errs[0] != nil {
		return errs[0]
	}
	return errs[1]
}

// ServeDNS answers one query.
func (d *DNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	a := d.answer(q)
	size := dns.MinMsgSize
	if o := q.IsEdns0(); o != nil {
		size = max(size, int(o.UDPSize()))
		a.SetEdns0(1232, false)
	}
	if w.RemoteAddr().Network() == "tcp" {
		size = dns.MaxMsgSize
	}
	a.Truncate(size)
	if err := w.WriteMsg(a); err != nil {
		d.Logger.Debug("a DNS answer could not be sent", "to", w.RemoteAddr().String(), "err", err)
	}
}

func (d *DNS) answer(q *dns.Msg) *dns.Msg {
	a := new(dns.Msg).SetReply(q)
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		a.Rcode = dns.RcodeNotImplemented
		return a
	}
	asked := q.Question[0]
	name := strings.ToLower(asked.Name)
	if !dns.IsSubDomain(Zone, name) {
		a.Rcode = dns.RcodeRefused
		return a
	}
	if !d.Index.Known() {
		a.Rcode = dns.RcodeServerFailure // better than to say that there is no such name
		return a
	}
	a.Authoritative = true
	short := strings.TrimSuffix(strings.TrimSuffix(name, Zone), ".")
	endpoints := d.Index.Lookup(service(short))
	switch {
	case short == "":
		if asked.Qtype == dns.TypeSOA {
			a.Answer = append(a.Answer, soa())
		}
	case len(endpoints) == 0 && !d.Index.Has(short):
		a.Rcode = dns.RcodeNameError
	default:
		fill(a, asked, endpoints)
	}
	if len(a.Answer) == 0 {
		a.Ns = append(a.Ns, soa())
	}
	return a
}

// service takes _sinatra._tcp.elk for sinatra.elk: so names of SRV records are
// written elsewhere.
func service(name string) string {
	labels := strings.SplitN(name, ".", 3)
	if len(labels) == 3 && strings.HasPrefix(labels[0], "_") && labels[1] == "_tcp" {
		return labels[0][1:] + "." + labels[2]
	}
	return name
}

func soa() dns.RR {
	return &dns.SOA{Hdr: header(Zone, dns.TypeSOA), Ns: "ns." + Zone, Mbox: "root." + Zone, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl}
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// fill adds the records that were asked for, in another order each time, for
// most clients take the first.
func fill(a *dns.Msg, asked dns.Question, endpoints []Endpoint) {
	rand.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
	base := service(strings.TrimSuffix(strings.ToLower(asked.Name), "."+Zone)) + "." + Zone
	seen := map[string]bool{}
	for _, e := range endpoints {
		if asked.Qtype != dns.TypeSRV {
			if rr := addressRecord(asked.Name, e); rr.Header().Rrtype == asked.Qtype && !seen[e.Addr.String()] {
				seen[e.Addr.String()] = true
				a.Answer = append(a.Answer, rr)
			}
			continue
		}
		if e.Port == 0 {
			continue
		}
		target := base
		// What was asked for may be an instance already.
		if e.Instance != "" && !strings.HasPrefix(base, e.Instance+".") {
			target = e.Instance + "." + base
		}
		a.Answer = append(a.Answer, &dns.SRV{Hdr: header(asked.Name, dns.TypeSRV), Weight: 1, Port: e.Port, Target: target})
		a.Extra = append(a.Extra, addressRecord(target, e))
	}
}

func addressRecord(name string, e Endpoint) dns.RR {
	if e.Addr.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA), A: e.Addr.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: e.Addr.AsSlice()}
}
