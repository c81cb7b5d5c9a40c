package discovery

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func testIndex() *Index {
	x := NewIndex()
	x.Update(true, map[string]string{
		"elk/sinatra/1":          "10.0.0.1:5001",
		"elk/sinatra/2":          "10.0.0.2:5002",
		"elk/sinatra/3":          "10.0.0.1:5003",
		"elk/Elasticsearch/host": "10.0.0.9",
		"elk/v6/1":               "[2001:db8::1]:80",
		"elk/whole":              "10.0.0.8:80",
		"elk/text/1":             "not an address",
		"elk/dotted.name/1":      "10.0.0.7",
		"elk":                    "10.0.0.6",
		"other/sinatra/1":        "10.0.1.1:80",
	}, nil)
	return x
}

// ask returns the records of an answer in a fixed order, and its code.
func ask(d *DNS, name string, t uint16) string {
	a := d.answer(new(dns.Msg).SetQuestion(name, t))
	var rrs []string
	for _, rr := range a.Answer {
		rrs = append(rrs, strings.Join(strings.Fields(rr.String())[3:], " "))
	}
	slices.Sort(rrs)
	if len(rrs) == 0 {
		return dns.RcodeToString[a.Rcode] + fmt.Sprintf(" soa=%d", len(a.Ns))
	}
	return strings.Join(rrs, ", ")
}

func TestAnswers(t *testing.T) {
	d := &DNS{Index: testIndex()}
	for _, c := range []struct {
		name string
		t    uint16
		want string
	}{
		{"sinatra.elk.plasmid.", dns.TypeA, "A 10.0.0.1, A 10.0.0.2"},
		{"SINATRA.elk.Plasmid.", dns.TypeA, "A 10.0.0.1, A 10.0.0.2"},
		{"sinatra.elk.plasmid.", dns.TypeSRV, "SRV 0 1 5001 1.sinatra.elk.plasmid., SRV 0 1 5002 2.sinatra.elk.plasmid., SRV 0 1 5003 3.sinatra.elk.plasmid."},
		{"_sinatra._tcp.elk.plasmid.", dns.TypeSRV, "SRV 0 1 5001 1.sinatra.elk.plasmid., SRV 0 1 5002 2.sinatra.elk.plasmid., SRV 0 1 5003 3.sinatra.elk.plasmid."},
		{"2.sinatra.elk.plasmid.", dns.TypeA, "A 10.0.0.2"},
		{"2.sinatra.elk.plasmid.", dns.TypeSRV, "SRV 0 1 5002 2.sinatra.elk.plasmid."},
		{"4.sinatra.elk.plasmid.", dns.TypeA, "NXDOMAIN soa=1"},
		{"sinatra.other.plasmid.", dns.TypeA, "A 10.0.1.1"},
		{"sinatra.elk.plasmid.", dns.TypeAAAA, "NOERROR soa=1"},
		{"v6.elk.plasmid.", dns.TypeAAAA, "AAAA 2001:db8::1"},
		{"elasticsearch.elk.plasmid.", dns.TypeA, "A 10.0.0.9"},
		{"elasticsearch.elk.plasmid.", dns.TypeSRV, "NOERROR soa=1"},
		{"whole.elk.plasmid.", dns.TypeSRV, "SRV 0 1 80 whole.elk.plasmid."},
		{"text.elk.plasmid.", dns.TypeA, "NXDOMAIN soa=1"},
		{"name.elk.plasmid.", dns.TypeA, "NXDOMAIN soa=1"},
		{"elk.plasmid.", dns.TypeA, "NOERROR soa=1"},
		{"lk.plasmid.", dns.TypeA, "NXDOMAIN soa=1"},
		{"plasmid.", dns.TypeSOA, "SOA ns.plasmid. root.plasmid. 1 3600 600 86400 1"},
		{"plasmid.", dns.TypeNS, "NOERROR soa=1"},
		{"debian.org.", dns.TypeA, "REFUSED soa=0"},
		{"xplasmid.", dns.TypeA, "REFUSED soa=0"},
	} {
		if got := ask(d, c.name, c.t); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, dns.TypeToString[c.t], got, c.want)
		}
	}
	for _, rr := range d.answer(new(dns.Msg).SetQuestion("sinatra.elk.plasmid.", dns.TypeSRV)).Extra {
		if !strings.HasSuffix(rr.Header().Name, ".sinatra.elk.plasmid.") || rr.Header().Ttl != ttl {
			t.Errorf("with the SRV records comes %s", rr)
		}
	}
}

func TestIndexChanges(t *testing.T) {
	x := NewIndex()
	d := &DNS{Index: x}
	if got := ask(d, "sinatra.elk.plasmid.", dns.TypeA); got != "SERVFAIL soa=0" {
		t.Errorf("before the store was read: %s", got)
	}
	step := func(snapshot bool, put map[string]string, deleted []string, want string) {
		t.Helper()
		x.Update(snapshot, put, deleted)
		if got := ask(d, "sinatra.elk.plasmid.", dns.TypeA); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	step(true, nil, nil, "NXDOMAIN soa=1")
	step(false, map[string]string{"elk/sinatra/1": "10.0.0.1:1"}, nil, "A 10.0.0.1")
	step(false, map[string]string{"elk/sinatra/1": "10.0.0.2:1", "elk/sinatra/2": "10.0.0.3"}, nil, "A 10.0.0.2, A 10.0.0.3")
	step(false, map[string]string{"elk/sinatra/1": "moved"}, nil, "A 10.0.0.3")
	step(false, nil, []string{"elk/sinatra/2", "elk/sinatra/9"}, "NXDOMAIN soa=1")
	step(true, map[string]string{"elk/sinatra/7": "10.0.0.7"}, nil, "A 10.0.0.7")
	if len(x.services) != 1 {
		t.Errorf("services that are gone are kept: %v", x.services)
	}
}

func TestOtherQueries(t *testing.T) {
	d := &DNS{Index: testIndex()}
	q := new(dns.Msg).SetQuestion("sinatra.elk.plasmid.", dns.TypeA)
	q.Opcode = dns.OpcodeUpdate
	if a := d.answer(q); a.Rcode != dns.RcodeNotImplemented {
		t.Errorf("an update: %v", a)
	}
	q = new(dns.Msg).SetQuestion("sinatra.elk.plasmid.", dns.TypeA)
	q.Question[0].Qclass = dns.ClassCHAOS
	if a := d.answer(q); a.Rcode != dns.RcodeNotImplemented {
		t.Errorf("another class: %v", a)
	}
	if a := d.answer(new(dns.Msg)); a.Rcode != dns.RcodeNotImplemented {
		t.Errorf("no question: %v", a)
	}
}

// Over the wire, by both protocols; what is too long for UDP says so.
func TestServe(t *testing.T) {
	x := NewIndex()
	put := map[string]string{}
	for i := range 100 {
		put[fmt.Sprintf("elk/many/%d", i)] = fmt.Sprintf("10.0.1.%d:80", i)
	}
	x.Update(true, put, nil)
	address := serveIndex(t, x)
	for _, network := range []string{"udp", "tcp"} {
		c := &dns.Client{Net: network}
		a, _, err := c.Exchange(new(dns.Msg).SetQuestion("many.elk.plasmid.", dns.TypeA), address)
		if err != nil {
			t.Fatal(err)
		}
		if whole := len(a.Answer) == 100; a.Truncated != (network == "udp") || whole != (network == "tcp") {
			t.Errorf("%s: %d records, truncated %v", network, len(a.Answer), a.Truncated)
		}
	}
}

func serveIndex(t *testing.T, x *Index) (address string) {
	t.Helper()
	d := &DNS{Index: x, Logger: slog.New(slog.DiscardHandler)}
	address = freeAddress(t)
	serve, err := d.Listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextForTest(t)
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return address
}

func FuzzIndex(f *testing.F) {
	f.Add("elk/sinatra/1", "10.0.0.1:80", "sinatra.elk.plasmid.")
	f.Fuzz(func(t *testing.T, key, value, name string) {
		d := &DNS{Index: NewIndex()}
		d.Index.Update(true, map[string]string{key: value}, nil)
		for _, q := range []uint16{dns.TypeA, dns.TypeSRV} {
			m := new(dns.Msg)
			m.Question = []dns.Question{{Name: name, Qtype: q, Qclass: dns.ClassINET}}
			if data, err := m.Pack(); err == nil && m.Unpack(data) == nil {
				if _, err := d.answer(m).Pack(); err != nil {
					t.Errorf("an answer that can't be sent: %v", err)
				}
			}
		}
	})
}
