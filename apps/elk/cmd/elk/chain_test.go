package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	lumber "github.com/elastic/go-lumber/client/v2"

	"plasmid/apps/elk/lumberjack"
	"plasmid/internal/selfsigned"
)

// TestMain lets the test's own binary be the processes of the chain.
func TestMain(m *testing.M) {
	switch os.Getenv("ELK_TEST_AS") {
	case "elk":
		main()
		os.Exit(0)
	case "store":
		runForgetfulStore(os.Args[1], os.Args[2])
	}
	os.Exit(m.Run())
}

// process is one that can be killed and started again.
type process struct {
	t    *testing.T
	name string
	as   string
	args []string
	log  *os.File
	cmd  *exec.Cmd
	done chan error
}

func (c *chain) process(name, as string, args ...string) *process {
	c.t.Helper()
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	p := &process{t: c.t, name: name, as: as, args: args, log: log}
	p.start()
	c.t.Cleanup(func() {
		p.kill()
		if c.t.Failed() {
			data, _ := os.ReadFile(log.Name())
			c.t.Logf("%s said:\n%s", name, data[max(0, len(data)-4000):])
		}
		log.Close()
	})
	return p
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], p.args...)
	if real := os.Getenv(realStore); real != "" && p.as == "store" {
		p.cmd = exec.Command(real, "-httpListenAddr="+p.args[0], "-storageDataPath="+p.args[1], "-inmemoryDataFlushInterval=1s", "-loggerLevel=WARN")
	}
	p.cmd.Env = append(os.Environ(), "ELK_TEST_AS="+p.as)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd) { p.done <- cmd.Wait() }(p.cmd)
}

func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
		p.cmd = nil
	}
}

// stop tells the process to stop, and waits for it.
func (p *process) stop() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.done:
		p.cmd = nil
		return err
	case <-time.After(30 * time.Second):
		p.t.Fatalf("%s does not stop", p.name)
		return nil
	}
}

func (p *process) restart() {
	p.t.Helper()
	p.kill()
	p.start()
}

// chain is forwarder, collector and store with a directory of logs.
type chain struct {
	t                           *testing.T
	dir, logs                   string
	storeURL, collectorAddress  string
	store, collector, forwarder *process
	written                     int
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// realStore names VictoriaLogs' binary, to run the tests over the real store.
const realStore = "PLASMID_VICTORIA_LOGS"

var settle = func() time.Duration {
	if os.Getenv(realStore) != "" {
		return 4 * time.Second
	}
	return 600 * time.Millisecond
}()

func newChain(t *testing.T) *chain {
	t.Helper()
	c := &chain{t: t, dir: t.TempDir(), collectorAddress: freePort(t)}
	storeAddress := freePort(t)
	c.storeURL = "http://" + storeAddress
	c.logs = filepath.Join(c.dir, "logs")
	if err := os.Mkdir(c.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	cert, key, err := selfsigned.Make("lumberjack.elk.plasmid")
	if err != nil {
		t.Fatal(err)
	}
	conf, err := json.Marshal(config{Store: c.storeURL, Collector: c.collectorAddress})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"crt": cert, "key": key, "elk.json": conf} {
		if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(c.dir, name) }
	c.store = c.process("store", "store", storeAddress, in("data"))
	c.collector = c.process("collector", "elk", "collector", "-config", in("elk.json"), "-listen", c.collectorAddress,
		"-settle", settle.String(), "-cert", in("crt"), "-key", in("key"))
	c.forwarder = c.process("forwarder", "elk", "forwarder", "-config", in("elk.json"), "-files", filepath.Join(c.logs, "*.log*"),
		"-instance", "1", "-host", "here", "-cert", in("crt"), "-key", in("key"))
	return c
}

// write appends lines to a log file.
func (c *chain) write(name string, n int) {
	c.t.Helper()
	f, err := os.OpenFile(filepath.Join(c.logs, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	for range n {
		c.written++
		if _, err := fmt.Fprintf(f, `{"time":%q,"n":%d,"status":200,"path":"/"}`+"\n", time.Now().Format(time.RFC3339Nano), c.written); err != nil {
			c.t.Fatal(err)
		}
	}
}

// stored counts the store's events by their number, and all.
func (c *chain) stored() (byNumber map[string]int, all int, err error) {
	resp, err := http.Get(c.storeURL + "/select/logsql/query?query=*")
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	byNumber = map[string]int{}
	dec := json.NewDecoder(resp.Body)
	for {
		var e struct {
			N json.Number `json:"n"`
		}
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return byNumber, all, nil
		} else if err != nil {
			return nil, 0, err
		}
		byNumber[e.N.String()]++
		all++
	}
}

// exact waits until there are as many events as lines, and each once.
func (c *chain) exact() {
	c.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		by, all, err := c.stored()
		if err == nil && all == c.written && len(by) == c.written {
			return
		}
		if all > c.written || time.Now().After(deadline) {
			c.t.Fatalf("%d lines were written; the store has %d events of %d lines (%v)", c.written, all, len(by), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// settled waits until the forwarder knows that all is stored.
func (c *chain) settled() {
	c.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		var es []struct {
			Inode  uint64
			Offset int64
		}
		data, err := os.ReadFile(filepath.Join(c.logs, ".registry"))
		if err == nil {
			err = json.Unmarshal(data, &es)
		}
		acked := map[uint64][]int64{} // entries of removed files stay a while
		for _, e := range es {
			acked[e.Inode] = append(acked[e.Inode], e.Offset)
		}
		lacks := ""
		names, _ := filepath.Glob(filepath.Join(c.logs, "*.log*"))
		for _, n := range names {
			info, err := os.Stat(n)
			if err != nil || !slices.Contains(acked[info.Sys().(*syscall.Stat_t).Ino], info.Size()) {
				lacks = n
			}
		}
		if err == nil && lacks == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s is not acknowledged to its end; the registry has %v (%v)", lacks, es, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestExactlyOnce kills every process again and again while lines are written
// and files are rotated. The store forgets what it took in the last moments
// when it is killed, as a real one does.
func TestExactlyOnce(t *testing.T) {
	c := newChain(t)
	victims := []*process{c.collector, c.store, c.forwarder, c.store, c.collector, c.forwarder}
	for round, victim := range victims {
		for range 5 {
			c.write("app.log", 300)
			time.Sleep(100 * time.Millisecond)
		}
		victim.restart()
		c.write("app.log", 300)
		if round%2 == 1 {
			for i := 3; i >= 0; i-- {
				_ = os.Rename(filepath.Join(c.logs, fmt.Sprintf("app.log.%d", i)), filepath.Join(c.logs, fmt.Sprintf("app.log.%d", i+1)))
			}
			if err := os.Rename(filepath.Join(c.logs, "app.log"), filepath.Join(c.logs, "app.log.0")); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.exact()
	c.settled()
	c.store.restart() // what was acknowledged is there for good
	c.exact()
	t.Logf("%d lines were written, %d events are stored", c.written, c.written)
}

// All at once, and nothing is there that another needs.
func TestColdStart(t *testing.T) {
	c := newChain(t)
	for _, p := range []*process{c.forwarder, c.collector, c.store} {
		p.kill()
	}
	c.write("app.log", 500)
	c.forwarder.start()
	time.Sleep(300 * time.Millisecond)
	c.collector.start()
	time.Sleep(300 * time.Millisecond)
	c.store.start()
	c.exact()
}

// A forwarder that is told to stop sends what is there first.
func TestDrain(t *testing.T) {
	c := newChain(t)
	c.write("app.log", 100)
	c.exact()
	c.write("app.log", 1500)
	if err := c.forwarder.stop(); err != nil {
		t.Fatalf("the forwarder ended with %v", err)
	}
	c.exact()
	c.settled()
}

// Files that are gone before they were sent, cut, or that take another's place.
func TestFiles(t *testing.T) {
	c := newChain(t)
	c.write("app.log", 10)
	c.settled()
	if err := os.Truncate(filepath.Join(c.logs, "app.log"), 0); err != nil {
		t.Fatal(err)
	}
	c.write("app.log", 5)
	c.exact()
	c.settled()

	if err := os.Remove(filepath.Join(c.logs, "app.log")); err != nil {
		t.Fatal(err)
	}
	c.write("app.log", 7) // likely by the same inode
	c.exact()
	c.settled()

	c.collector.kill()
	c.write("gone.log", 20)
	time.Sleep(500 * time.Millisecond) // it is seen; nobody takes it
	if err := os.Remove(filepath.Join(c.logs, "gone.log")); err != nil {
		t.Fatal(err)
	}
	c.collector.start()
	c.exact()
}

// Who has not the certificate gets nothing in.
func TestStrangers(t *testing.T) {
	c := newChain(t)
	c.write("app.log", 1)
	c.exact()
	cert, key, err := selfsigned.Make("lumberjack.elk.plasmid")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{"without a certificate": nil, "with another": {pair}} {
		conn, err := tls.Dial("tcp", c.collectorAddress, &tls.Config{InsecureSkipVerify: true, Certificates: certs})
		if err != nil {
			continue
		}
		cl, err := lumber.NewSyncClientWithConn(conn, lumber.Timeout(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := cl.Send([]any{map[string]any{"message": "x"}}); err == nil {
			t.Errorf("%s: %d events were taken", name, n)
		}
		conn.Close()
	}
	// And a forwarder sends nothing to a collector that is another.
	_, client, err := lumberjack.TLS(filepath.Join(c.dir, "crt"), filepath.Join(c.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	if conn, err := tls.Dial("tcp", l.Addr().String(), client); err == nil {
		conn.Close()
		t.Error("a strange collector is trusted")
	}
	c.exact()
}

// Old forwarders speak version 1.
func TestVersion1(t *testing.T) {
	c := newChain(t)
	_, client, err := lumberjack.TLS(filepath.Join(c.dir, "crt"), filepath.Join(c.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	c.write("app.log", 1)
	c.exact() // the collector listens
	conn, err := tls.Dial("tcp", c.collectorAddress, client)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var b bytes.Buffer
	word := func(s string) { fmt.Fprintf(&b, "\x00\x00\x00%c%s", len(s), s) }
	b.WriteString("1W\x00\x00\x00\x011D\x00\x00\x00\x01\x00\x00\x00\x02")
	for _, s := range []string{"line", `{"n":2}`, "file", "/var/log/x"} {
		word(s)
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ack := make([]byte, 6)
	if _, err := io.ReadFull(conn, ack); err != nil || !strings.HasPrefix(string(ack), "1A") {
		t.Fatalf("answer %q, %v", ack, err)
	}
	c.written++
	c.exact()
}

// ACK comes when the event is on the disk, not before.
func TestAcknowledgedLate(t *testing.T) {
	c := newChain(t)
	c.forwarder.kill()
	_, client, err := lumberjack.TLS(filepath.Join(c.dir, "crt"), filepath.Join(c.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var conn net.Conn
	for {
		if conn, err = (&tls.Dialer{Config: client}).DialContext(ctx, "tcp", c.collectorAddress); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	defer conn.Close()
	cl, err := lumber.NewSyncClientWithConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	c.store.kill()
	started := make(chan struct{})
	time.AfterFunc(time.Second, func() {
		defer close(started)
		c.store.start()
	})
	begun := time.Now()
	if n, err := cl.Send([]any{map[string]any{"message": `{"n":1}`, "source": "a", "offset": 0}}); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if took := time.Since(begun); took < time.Second+settle {
		t.Errorf("acknowledged after %v", took)
	}
	<-started
	c.written = 1
	c.store.restart()
	c.exact()
}
