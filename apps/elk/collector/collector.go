// Package collector takes events by Lumberjack and puts each into the store
// exactly once: it acknowledges a batch when the events are on the store's
// disk, and asks the store what it has before it sends anything again.
package collector

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/elastic/go-lumber/lj"
	lumberlog "github.com/elastic/go-lumber/log"
	"github.com/elastic/go-lumber/server"

	"plasmid/apps/elk/lumberjack"
)

// Collector is between forwarders and a store.
type Collector struct {
	// Store says where the store is; it is asked before each attempt.
	Store func() (url string, err error)
	// Settle is how long after its answer the store has events on its disk
	// for sure. If it was started again meanwhile they may be lost.
	Settle time.Duration
	Log    *slog.Logger

	http  *http.Client
	locks sources
}

const (
	storeTimeout = 30 * time.Second // of one request
	firstRetry   = 250 * time.Millisecond
	lastRetry    = 5 * time.Second
	// keepalive tells forwarders that their batch is not forgotten.
	keepalive    = 2 * time.Second
	frameTimeout = 30 * time.Second
)

// Serve takes connections from l, which does TLS already, until ctx ends.
func (c *Collector) Serve(ctx context.Context, l net.Listener) error {
	c.http = &http.Client{Timeout: storeTimeout, Transport: &http.Transport{
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}}
	lumberlog.Logger = silent{} // it tells of every connection, also of readiness checks
	refused := func(peer net.Addr, err error) { c.Log.Warn("connection closed", "peer", peer, "err", err) }
	s, err := server.NewWithListener(lumberjack.Limit(l, refused), server.V1(true), server.V2(true), server.Keepalive(keepalive), server.Timeout(frameTimeout))
	if err != nil {
		return err
	}
	var work sync.WaitGroup
	defer work.Wait()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case b, ok := <-s.ReceiveChan():
			if !ok {
				return nil
			}
			work.Go(func() {
				if c.keep(ctx, c.parseAll(b)) == nil {
					b.ACK()
				}
			})
		}
	}
}

type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}
func (silent) Print(...any)          {}

func (c *Collector) parseAll(b *lj.Batch) []event {
	now := time.Now()
	var events []event
	for _, in := range b.Events {
		e, err := parse(in, now)
		if err != nil { // nothing that came as JSON fails to become JSON
			c.Log.Error("an event can't be stored", "err", err)
			continue
		}
		events = append(events, e)
	}
	return events
}

// keep returns when the events are in the store to stay, or ctx has ended.
func (c *Collector) keep(ctx context.Context, events []event) error {
	unsure := slices.ContainsFunc(events, func(e event) bool { return e.resent })
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		life, sent, err := c.attempt(ctx, events, unsure)
		unsure = unsure || sent
		if err == nil {
			err = c.settle(ctx, life)
		}
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		c.Log.Warn("events are not stored yet; trying again", "events", len(events), "after", retry, "err", err)
		if err := sleep(ctx, retry/2+rand.N(retry)); err != nil {
			return err
		}
	}
}

// attempt sends the events to the store, if unsure only those that it lacks.
// sent is true if any of them may have reached it.
func (c *Collector) attempt(ctx context.Context, events []event, unsure bool) (life string, sent bool, err error) {
	// A forwarder that lost patience sends a batch again while it is still
	// being stored. One of the two has to be done before the other looks.
	unlock := c.locks.lock(slices.Sorted(maps.Keys(ranges(events))))
	defer unlock()
	base, err := c.Store()
	if err != nil {
		return "", false, err
	}
	st := store{base, c.http}
	if life, err = st.life(ctx); err != nil {
		return "", false, err
	}
	if unsure {
		if events, err = st.missing(ctx, events); err != nil {
			return "", false, err
		}
	}
	if len(events) == 0 {
		return life, false, nil
	}
	return life, true, st.bulk(ctx, events)
}

var errRestarted = errors.New("the store was started again before the events were on its disk")

// settle waits until what the store took is on its disk, and fails if that is
// not certain.
func (c *Collector) settle(ctx context.Context, life string) error {
	if err := sleep(ctx, c.Settle); err != nil {
		return err
	}
	base, err := c.Store()
	if err != nil {
		return err
	}
	now, err := store{base, c.http}.life(ctx)
	if err != nil {
		return err
	}
	if now != life {
		return errRestarted
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// sources has a lock for each source.
type sources struct {
	mu    sync.Mutex
	locks map[string]*sourceLock
}

type sourceLock struct {
	sync.Mutex
	users int
}

// lock locks sources, which are sorted so that two callers never wait for each
// other.
func (s *sources) lock(names []string) (unlock func()) {
	var held []*sourceLock
	for _, n := range names {
		s.mu.Lock()
		if s.locks == nil {
			s.locks = map[string]*sourceLock{}
		}
		l := s.locks[n]
		if l == nil {
			l = &sourceLock{}
			s.locks[n] = l
		}
		l.users++
		s.mu.Unlock()
		l.Lock()
		held = append(held, l)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, l := range held {
			l.Unlock()
			if l.users--; l.users == 0 {
				delete(s.locks, names[i])
			}
		}
	}
}
