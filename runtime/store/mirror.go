package store

import (
	"context"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Mirror is a copy of the whole store that a watch keeps up to date.
type Mirror struct {
	store *Store

	mu      sync.Mutex
	view    *View
	changed chan struct{} // closed and made anew at every change
	current bool
	since   time.Time // of the last change of current
	watched bool      // a snapshot was taken, and its watch lives
	cluster uint64    // etcd's own ID with that snapshot
	ready   chan struct{}
	heard   time.Time // of the last word from the store

	followers map[*Follower]bool
}

// Mirror starts a copy that is kept until ctx ends.
func (s *Store) Mirror(ctx context.Context) *Mirror {
	m := &Mirror{store: s, view: newView(), changed: make(chan struct{}), ready: make(chan struct{}), followers: map[*Follower]bool{}}
	go func() { _ = s.follow(ctx, "", m.take, m.lose) }()
	go m.probe(ctx)
	return m
}

// View returns the newest view. It may be old while Current is false.
func (m *Mirror) View() *View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view
}

// Changed returns a channel that is closed at the next change of the view or
// of Current.
func (m *Mirror) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Ready is closed when there is a first view.
func (m *Mirror) Ready() <-chan struct{} { return m.ready }

// Current reports whether the store answers and has a leader, and since when
// that, or the contrary, has been so.
func (m *Mirror) Current() (bool, time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current, m.since
}

// Wait returns when the view is at least as new as the revision.
func (m *Mirror) Wait(ctx context.Context, revision int64) error {
	for {
		m.mu.Lock()
		have, changed := m.view.Revision, m.changed
		m.mu.Unlock()
		if have >= revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return failed("waiting for the store's watch", ctx.Err())
		case <-changed:
		}
	}
}

func (m *Mirror) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Mirror) setCurrent(current bool) {
	if m.current != current {
		m.current, m.since = current, time.Now()
		m.notify()
	}
}

func (m *Mirror) lose(error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watched = false
	m.setCurrent(false)
}

func (m *Mirror) take(c change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = time.Now()
	if c.progress {
		if c.revision > m.view.Revision {
			next := *m.view
			next.Revision = c.revision
			m.view = &next
			m.notify()
		}
		return nil
	}
	base := m.view
	if c.snapshot {
		base = newView()
	}
	e := base.edit()
	e.Revision = c.revision
	for _, kv := range c.kvs {
		m.apply(e, string(kv.Key), func(key string) error { return e.apply(key, kv, false) })
	}
	for _, ev := range c.events {
		m.apply(e, string(ev.Kv.Key), func(key string) error { return e.apply(key, ev.Kv, ev.Type == clientv3.EventTypeDelete) })
	}
	m.view = &e.View
	m.tell(c)
	if c.snapshot {
		select {
		case <-m.ready:
		default:
			close(m.ready)
		}
		m.watched, m.cluster = true, c.cluster
		m.setCurrent(true)
	}
	m.notify()
	return nil
}

// apply passes over a key that can't be read, so that one bad value does not
// blind the cluster.
func (m *Mirror) apply(e *editor, key string, f func(string) error) {
	if err := f(strings.TrimPrefix(key, m.store.prefix)); err != nil {
		m.store.log.Error("a key can't be read; it is passed over", "key", key, "err", err)
	}
}

// probe finds out that a store has gone silent, or back in time, without ending
// the watch. It only reads, and only when nothing was heard for a while.
func (m *Mirror) probe(ctx context.Context) {
	const every = time.Second
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		m.mu.Lock()
		// A mirror that is not current asks also when it hears something:
		// changes that come all the time must not keep it from asking.
		ask := !m.current || time.Since(m.heard) >= every
		watched, cluster, revision := m.watched, m.cluster, m.view.Revision
		m.mu.Unlock()
		if !ask {
			continue
		}
		pctx, cancel := context.WithTimeout(ctx, 2*every)
		resp, err := m.store.client.Get(pctx, m.store.key(keySchema), clientv3.WithKeysOnly())
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil && watched && (resp.Header.Revision < revision || resp.Header.ClusterId != cluster) {
			m.lose(errRestored)
			m.store.beginAnew()
			continue
		}
		m.mu.Lock()
		if err == nil {
			m.heard = time.Now()
			// The watch comes back by itself after a short silence; only
			// a snapshot makes a lost mirror current again.
			if m.watched {
				m.setCurrent(true)
			}
		} else {
			m.setCurrent(false)
		}
		m.mu.Unlock()
	}
}
