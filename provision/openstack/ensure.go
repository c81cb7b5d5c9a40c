package openstack

import (
	"context"
	"fmt"
	"time"
)

const (
	ensureTries = 6
	// goneTimeout is how long a thing may take to vanish, or to become free of
	// what stands in the way of its deletion.
	goneTimeout = 5 * time.Minute
	pollEvery   = time.Second
)

// sleep waits, unless ctx ends before.
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

// maker knows how to make one kind of thing.
type maker[T any] struct {
	what   string
	find   func(context.Context) ([]T, error) // those that are the same as the one wanted, the oldest first
	create func(context.Context) (T, error)
	remove func(context.Context, T) error
	id     func(T) string
}

// ensure returns the thing, and makes it if there is none. If the making ends
// in an error after which it may be there all the same, that is looked up. If
// somebody else made the same at the same time, one is everybody's, and the other
// is removed by who made it.
func (m maker[T]) ensure(ctx context.Context) (T, error) {
	var none T
	var last error
	for try := 1; try <= ensureTries; try++ {
		if try > 1 {
			if err := sleep(ctx, backOff(try-1)); err != nil {
				return none, err
			}
		}
		found, err := m.find(ctx)
		if err != nil {
			return none, said(err)
		}
		if len(found) > 0 {
			return found[0], nil
		}
		made, err := m.create(ctx)
		if err != nil {
			if last = said(err); undecided(err) && ctx.Err() == nil {
				continue
			}
			// What is refused may be refused because it is there by now.
			if found, e := m.find(ctx); e == nil && len(found) > 0 {
				return found[0], nil
			}
			return none, last
		}
		other, err := m.another(ctx, made)
		if err != nil || other == nil {
			return made, nil
		}
		if err := m.remove(ctx, made); err != nil && !isGone(err) {
			return none, fmt.Errorf("another operator made the same %s; removing ours: %w", m.what, said(err))
		}
		return *other, nil
	}
	return none, last
}

// yield is for how many polls the maker of the older of two waits for the other's
// to go.
const yield = 5

// another returns what somebody else made at the same time, if ours is to go: it
// is older, or it stays, because its maker looked before ours was to be seen. What
// was begun first need not be there first.
func (m maker[T]) another(ctx context.Context, made T) (*T, error) {
	for poll := 0; ; poll++ {
		found, err := m.find(ctx)
		if err != nil || len(found) < 2 {
			return nil, err
		}
		if m.id(found[0]) != m.id(made) {
			return &found[0], nil
		}
		if poll == yield {
			return &found[1], nil
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return nil, err
		}
	}
}

// untilGone deletes a thing as soon as OpenStack lets it: what it is attached
// to may still be on its way out. wait is how it is seen that it is gone; nil
// where deletion is done when it is answered.
func untilGone(ctx context.Context, remove func(context.Context) error, wait func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("it is not gone after %v", goneTimeout))
	defer cancel()
	for try := 1; ; try++ {
		err := remove(ctx)
		switch {
		case isGone(err):
			return nil
		case err == nil && wait == nil:
			return nil
		case err == nil:
			err = wait(ctx)
			if isGone(err) || err == nil {
				return nil
			}
			if ctx.Err() == nil {
				return said(err)
			}
		case !hasCode(err, 409, 400) && !undecided(err):
			return said(err)
		}
		if e := sleep(ctx, min(backOff(try), 5*time.Second)); e != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), said(err))
		}
	}
}
