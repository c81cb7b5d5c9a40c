package systemd

import (
	"context"
	"slices"
	"sync"
)

// reloader has systemd read its files once for all who ask meanwhile: a reload
// takes longer the more units there are.
type reloader struct {
	reload func(context.Context) error

	mu      sync.Mutex
	running bool
	waiting []chan error
}

// do returns when a reload that began after the call has ended.
func (r *reloader) do(ctx context.Context) error {
	done := make(chan error, 1)
	r.mu.Lock()
	r.waiting = append(r.waiting, done)
	if !r.running {
		r.running = true
		go r.run(context.WithoutCancel(ctx))
	}
	r.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *reloader) run(ctx context.Context) {
	for {
		r.mu.Lock()
		batch := slices.Clone(r.waiting)
		r.waiting = r.waiting[:0]
		if len(batch) == 0 {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		err := r.reload(ctx)
		for _, done := range batch {
			done <- err
		}
	}
}
