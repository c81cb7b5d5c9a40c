package systemd

import (
	"context"
	"sync"
)

// shared makes one call for all who ask while the one before is under way: what
// systemd has to do for a call costs more than what it does for each unit.
type shared[R any] struct {
	// call asks for units by name. What it has no answer for is asked for again
	// by itself, so that one unit spoils nothing for another.
	call func(ctx context.Context, names []string) (map[string]R, error)

	mu      sync.Mutex
	running bool
	waiting []asked[R]
}

type asked[R any] struct {
	name string
	done chan answer[R]
}

type answer[R any] struct {
	value R
	err   error
}

// do returns the answer of a call that began after this one did.
func (s *shared[R]) do(ctx context.Context, name string) (R, error) {
	done := make(chan answer[R], 1)
	s.mu.Lock()
	s.waiting = append(s.waiting, asked[R]{name, done})
	if !s.running {
		s.running = true
		go s.run(context.WithoutCancel(ctx))
	}
	s.mu.Unlock()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		var none R
		return none, ctx.Err()
	}
}

func (s *shared[R]) run(ctx context.Context) {
	for {
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		if len(batch) == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		names := make([]string, len(batch))
		for i, a := range batch {
			names[i] = a.name
		}
		values, err := s.call(ctx, names)
		for _, a := range batch {
			v, ok := values[a.name]
			switch {
			case ok:
				a.done <- answer[R]{v, nil}
			case len(batch) == 1:
				a.done <- answer[R]{v, err}
			default:
				go func() {
					values, err := s.call(ctx, []string{a.name})
					a.done <- answer[R]{values[a.name], err}
				}()
			}
		}
	}
}
