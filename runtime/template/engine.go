package template

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Store is where keys come from.
type Store interface {
	// Get returns the keys that are, or are below, one of those named, and
	// the revision they were read at.
	Get(ctx context.Context, keys []string) (map[string]string, int64, error)
	// Watch returns when one of the keys may have changed after the revision.
	Watch(ctx context.Context, keys []string, revision int64) error
}

// Retry times of a resource that failed, doubled from the first to the last.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// Once applies all resources and returns the errors of those that failed.
func Once(ctx context.Context, s Store, rs []*Resource, o Options) error {
	var errs []error
	for _, r := range rs {
		if _, _, err := r.pass(ctx, s, o); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Interval applies all resources again and again until ctx ends. load is
// called before each round, so that changed resources are seen.
func Interval(ctx context.Context, s Store, load func() ([]*Resource, error), every time.Duration, o Options) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		rs, err := load()
		if err = errors.Join(err, Once(ctx, s, rs, o)); err != nil && ctx.Err() == nil {
			o.Logger.Error("round failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Watch applies each resource when its keys change, until ctx ends. A resource
// that fails is tried again with growing pauses, and does not hold up others.
func Watch(ctx context.Context, s Store, rs []*Resource, o Options) {
	var wg sync.WaitGroup
	for _, r := range rs {
		wg.Go(func() { r.follow(ctx, s, o) })
	}
	wg.Wait()
}

func (r *Resource) pass(ctx context.Context, s Store, o Options) (revision int64, changed bool, err error) {
	start := time.Now()
	defer func() {
		if ctx.Err() == nil {
			o.Metrics.pass(r, time.Since(start), changed, err)
		}
	}()
	stored, revision, err := s.Get(ctx, r.storeKeys())
	if err != nil {
		return 0, false, err
	}
	changed, err = r.apply(ctx, r.relative(stored), o)
	return revision, changed, err
}

func (r *Resource) follow(ctx context.Context, s Store, o Options) {
	retry := firstRetry
	var reloaded time.Time
	for ctx.Err() == nil {
		if !pause(ctx, time.Until(reloaded.Add(r.MinReload))) {
			return
		}
		revision, changed, err := r.pass(ctx, s, o)
		if changed {
			reloaded = time.Now()
		}
		if err == nil {
			err = r.await(ctx, s, revision, o.Resync)
			if err == nil {
				retry = firstRetry
				pause(ctx, r.Debounce)
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		o.Logger.Error("failed; trying again", "resource", r.Name, "after", retry, "err", err)
		r.awaitRetry(ctx, s, revision, retry)
		retry = min(2*retry, lastRetry)
	}
}

// await returns when the keys may have changed, or when they are to be read
// again in any case.
func (r *Resource) await(ctx context.Context, s Store, revision int64, resync time.Duration) error {
	if resync > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, resync)
		defer cancel()
	}
	err := s.Watch(ctx, r.storeKeys(), revision)
	if err != nil && resync > 0 && ctx.Err() == context.DeadlineExceeded {
		return nil
	}
	return err
}

// awaitRetry waits for the pause to pass or for a change of the keys, which may
// be the cure.
func (r *Resource) awaitRetry(ctx context.Context, s Store, revision int64, after time.Duration) {
	wait, cancel := context.WithTimeout(ctx, after)
	defer cancel()
	if revision > 0 && s.Watch(wait, r.storeKeys(), revision) == nil {
		pause(ctx, r.Debounce)
		return
	}
	<-wait.Done()
}

// pause waits and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
