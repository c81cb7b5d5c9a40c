// Package confd measures how long it takes from the change of a key to the end
// of the reload: go test -bench . ./bench/confd
package confd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/store/etcdtest"
	"plasmid/runtime/template"
)

// BenchmarkKeyToReload compares a plain watch of etcd, the same with a file
// rendered, checked and its user told by a shell command, and a real nginx that
// answers from the new configuration, if there is one on this machine.
func BenchmarkKeyToReload(b *testing.B) {
	server := etcdtest.Start(b)
	client := server.Client()
	var baseline time.Duration
	report := func(b *testing.B, took []time.Duration) time.Duration {
		slices.Sort(took)
		median := took[len(took)/2]
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(median.Microseconds())/1000, "median-ms")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		if baseline == 0 {
			return median
		}
		b.ReportMetric(float64(median)/float64(baseline), "times-watch")
		return baseline
	}
	changes := 0
	next := func() string { changes++; return fmt.Sprint("value-", changes) } // never one of before
	put := func(b *testing.B, key, value string) {
		if _, err := client.Put(b.Context(), key, value); err != nil {
			b.Fatal(err)
		}
	}

	b.Run("watch", func(b *testing.B) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		seen := client.Watch(ctx, "/bench/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-seen
		var took []time.Duration
		for range b.N {
			start := time.Now()
			put(b, "/bench/a", next())
			<-seen
			took = append(took, time.Since(start))
		}
		baseline = 0 // Go runs a benchmark more than once; the last run counts
		baseline = report(b, took)
	})

	b.Run("confd", func(b *testing.B) {
		dir := b.TempDir()
		fifo := filepath.Join(dir, "reloaded")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			b.Fatal(err)
		}
		reloaded, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer reloaded.Close()
		follow(b, client, dir, `{{getv "/bench/a" ""}}`, "test -s {{.src}} || true", "echo >"+fifo)
		tell := make([]byte, 1)
		if _, err := io.ReadFull(reloaded, tell); err != nil {
			b.Fatal(err)
		}
		var took []time.Duration
		for range b.N {
			start := time.Now()
			put(b, "/bench/a", next())
			if _, err := io.ReadFull(reloaded, tell); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		report(b, took)
	})

	nginx, err := exec.LookPath("nginx")
	if err != nil {
		b.Log("there is no nginx here: its part is left out")
		return
	}
	b.Run("nginx", func(b *testing.B) {
		dir := b.TempDir()
		// Each configuration has a socket of its own: where nginx shares one, the
		// old workers answer for another 100 ms, beside the new ones.
		dest, socket := filepath.Join(dir, "out"), filepath.Join(dir, "s-")
		text := fmt.Sprintf("daemon off; pid %[1]s/pid; error_log stderr crit; events {}\nhttp { access_log off; client_body_temp_path %[1]s/t; proxy_temp_path %[1]s/t; fastcgi_temp_path %[1]s/t; uwsgi_temp_path %[1]s/t; scgi_temp_path %[1]s/t; server { listen unix:%[1]s/s-{{getv \"/bench/a\" \"\"}}; return 200 ok; } }\n", dir)
		follow(b, client, dir, text, nginx+" -t -q -c {{.src}}", "test ! -s "+dir+"/pid || "+nginx+" -s reload -c "+dest)
		deadline := time.Now().Add(20 * time.Second)
		wait := func(what string, f func() bool) {
			for !f() {
				if time.Now().After(deadline) {
					b.Fatalf("%s did not come about", what)
				}
				time.Sleep(200 * time.Microsecond)
			}
			deadline = time.Now().Add(20 * time.Second)
		}
		wait("the first configuration", func() bool { _, err := os.Stat(dest); return err == nil })
		cmd := exec.Command(nginx, "-c", dest)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
		last := next()
		put(b, "/bench/a", last)
		wait("nginx", func() bool {
			pid, _ := os.ReadFile(filepath.Join(dir, "pid"))
			return len(pid) > 0 && answers(socket+last)
		})
		var took []time.Duration
		for range b.N {
			// nginx itself sleeps for 100 ms after a reload, deaf to the next.
			time.Sleep(150 * time.Millisecond)
			want := next()
			start := time.Now()
			put(b, "/bench/a", want)
			wait("a reload", func() bool { return answers(socket + want) })
			took = append(took, time.Since(start))
		}
		report(b, took)
	})
}

// follow runs one resource until the benchmark ends.
func follow(b *testing.B, client *clientv3.Client, dir, text, check, reload string) {
	for name, data := range map[string]string{
		"templates/a":   text,
		"conf.d/a.toml": fmt.Sprintf("[template]\nsrc = 'a'\ndest = '%s/out'\nkeys = ['/bench']\ncheck_cmd = '''%s'''\nreload_cmd = '''%s'''\n", dir, check, reload),
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	rs, err := template.LoadResources(dir, "")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		template.Watch(ctx, &template.Etcd{Client: client}, rs, template.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	}()
	b.Cleanup(func() { cancel(); <-done })
}

// answers reports whether a server answers at a socket.
func answers(socket string) bool {
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	resp, err := c.Get("http://nginx/")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body) == "ok"
}
