// Package forwarder follows log files and sends each line to a collector by
// Lumberjack. It remembers what is stored, also over restarts, and marks what
// it sends again.
package forwarder

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	lumber "github.com/elastic/go-lumber/client/v2"
	"github.com/fsnotify/fsnotify"
)

// Forwarder follows the files of one directory.
type Forwarder struct {
	Pattern  string // glob of the files; the directory has no wildcards
	Registry string // file
	Host     string // begins the sources' names
	// Fields are added to each event.
	Fields map[string]string
	// Collector says where the collector is; it is asked before each dial.
	Collector func() (address string, err error)
	TLS       *tls.Config
	Drain     time.Duration // how long to go on after the end of ctx
	Log       *slog.Logger

	files   []*file
	old     []*entry // of files that were not seen since the start
	started time.Time
	client  *lumber.SyncClient
	conn    net.Conn
	address string
}

const (
	dialTimeout = 5 * time.Second
	// ackTimeout is longer than several of the collector's keep-alives.
	ackTimeout = 10 * time.Second
	firstRetry = 250 * time.Millisecond
	lastRetry  = 8 * time.Second
	// lookAnyway is for news that the kernel had no room to tell.
	lookAnyway = 5 * time.Second
	// unseen is how long a file that has no name any more, or another than
	// the pattern's, is remembered: while files are being renamed a look may
	// miss one.
	unseen = time.Minute
)

// Run sends lines until ctx ends, and then what is left for Drain at most.
func (f *Forwarder) Run(ctx context.Context) error {
	var err error
	if f.old, err = loadRegistry(f.Registry); err != nil {
		return err
	}
	f.started = time.Now()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(f.Pattern)); err != nil {
		return err
	}
	defer f.disconnect()
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(f.Drain, cancel) })
	defer stop()
	for {
		ending := ctx.Err() != nil // what was written before is sent below
		if err := f.look(); err != nil {
			return err
		}
		if err := f.sendAll(hard); err != nil {
			return err
		}
		if ending {
			return nil
		}
		if hard.Err() != nil {
			return errors.New("stopped before all lines were stored; they are sent after the next start")
		}
		if err := await(ctx, watcher); err != nil {
			return err
		}
	}
}

// await waits for news of the directory, for ctx to end or for a while.
func await(ctx context.Context, w *fsnotify.Watcher) error {
	t := time.NewTimer(lookAnyway)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-t.C:
	case _, ok := <-w.Events:
		if !ok {
			return errors.New("the directory is watched no more")
		}
		// More news are likely: they make one batch.
		gather := time.After(50 * time.Millisecond)
		for {
			select {
			case <-w.Events:
			case <-gather:
				return nil
			}
		}
	case err := <-w.Errors:
		if !errors.Is(err, fsnotify.ErrEventOverflow) {
			return err
		}
	}
	return nil
}

// look finds new files, and forgets those that are gone and all sent.
func (f *Forwarder) look() error {
	names, err := filepath.Glob(f.Pattern)
	if err != nil {
		return err
	}
	changed := false
	now := time.Now()
	for _, name := range names {
		known, added, err := f.open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // renamed or removed this moment
		}
		if err != nil {
			return err
		}
		if known != nil {
			known.seen = now
		}
		changed = changed || added
	}
	f.files = slices.DeleteFunc(f.files, func(x *file) bool {
		if now.Sub(x.seen) < unseen {
			return false
		}
		info, err := x.f.Stat()
		if err == nil && info.Size() > x.Offset && !f.truncated(x, info) {
			return false // removed, but not all of it was sent
		}
		x.f.Close()
		changed = true
		return true
	})
	if f.old != nil && now.Sub(f.started) > unseen {
		f.old = nil // files that were removed while nobody looked
		changed = true
	}
	// What was written first is sent first.
	slices.SortStableFunc(f.files, func(a, b *file) int { return modified(a).Compare(modified(b)) })
	if changed {
		return f.save()
	}
	return nil
}

func modified(x *file) time.Time {
	info, err := x.f.Stat()
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (f *Forwarder) truncated(x *file, info fs.FileInfo) bool {
	same, err := x.is(x.f, info)
	return err == nil && !same
}

// open finds the file that name is now, or begins to follow it.
func (f *Forwarder) open(name string) (x *file, added bool, err error) {
	fd, err := os.Open(name)
	if err != nil {
		return nil, false, err
	}
	info, err := fd.Stat()
	if err != nil || !info.Mode().IsRegular() {
		fd.Close()
		return nil, false, err
	}
	for _, x := range f.files {
		same, err := x.is(fd, info)
		if same || err != nil {
			fd.Close()
			return x, false, err
		}
	}
	for _, e := range f.old {
		same, err := e.is(fd, info)
		if err != nil {
			fd.Close()
			return nil, false, err
		}
		if same {
			// What was sent before the restart is not known: it can be all.
			x = &file{entry: e, f: fd, sent: info.Size()}
			f.files = append(f.files, x)
			f.old = slices.DeleteFunc(f.old, func(o *entry) bool { return o == e })
			return x, false, nil
		}
	}
	// The name is in the registry before the first line is sent: after a
	// crash the lines are known by the same name.
	x = &file{entry: newEntry(info, f.Host), f: fd}
	f.files = append(f.files, x)
	return x, true, nil
}

func (f *Forwarder) save() error {
	es := slices.Clone(f.old)
	for _, x := range f.files {
		es = append(es, x.entry)
	}
	return saveRegistry(f.Registry, es)
}

// sendAll sends until the ends of all files, or until ctx ends.
func (f *Forwarder) sendAll(ctx context.Context) error {
	for _, x := range f.files {
		for ctx.Err() == nil {
			lines, next, err := x.lines()
			if err != nil {
				return err
			}
			if len(lines) == 0 {
				break
			}
			if !f.deliver(ctx, x, lines, next) {
				return nil
			}
			if err := x.acked(x.f, next); err != nil {
				return err
			}
			if err := f.save(); err != nil {
				return err
			}
		}
	}
	return nil
}

// deliver tries until the lines are acknowledged; false: ctx has ended before.
func (f *Forwarder) deliver(ctx context.Context, x *file, lines []line, next int64) bool {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := f.connect(ctx)
		if err == nil {
			events := f.events(x, lines)
			x.sent = max(x.sent, next)
			if err = f.send(ctx, events); err == nil {
				return true
			}
			f.disconnect()
		}
		if ctx.Err() != nil {
			return false
		}
		pause := retry/2 + rand.N(retry)
		f.Log.Warn("lines are not stored yet; trying again", "lines", len(lines), "after", pause.Round(time.Millisecond), "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (f *Forwarder) events(x *file, lines []line) []any {
	var events []any
	for _, l := range lines {
		e := map[string]any{
			"message": strings.ToValidUTF8(string(l.text), "�"),
			"source":  x.Source, "offset": l.offset,
		}
		for k, v := range maps.All(f.Fields) {
			e[k] = v
		}
		if l.cut {
			e["cut"] = "true"
		}
		if l.offset < x.sent {
			e["resent"] = true
		}
		events = append(events, e)
	}
	return events
}

func (f *Forwarder) connect(ctx context.Context) error {
	address, err := f.Collector()
	if err != nil {
		return err
	}
	if f.client != nil && address == f.address {
		return nil
	}
	f.disconnect()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: f.TLS}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	f.client, err = lumber.NewSyncClientWithConn(conn, lumber.Timeout(ackTimeout), lumber.CompressionLevel(3))
	f.conn, f.address = conn, address
	return err
}

func (f *Forwarder) send(ctx context.Context, events []any) error {
	stop := context.AfterFunc(ctx, func() { f.conn.Close() })
	defer stop()
	_, err := f.client.Send(events)
	return err
}

func (f *Forwarder) disconnect() {
	if f.conn != nil {
		f.conn.Close()
	}
	f.client, f.conn = nil, nil
}
