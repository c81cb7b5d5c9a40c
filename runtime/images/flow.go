package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// stallTimeout is how long a transfer may bring nothing. How long it takes as
// a whole is the affair of the network and of the image's size.
const stallTimeout = 10 * time.Second

var errStalled = errors.New("stalled")

// flow ends a transfer that stalls: a machine that went away without a word
// never closes its connections.
type flow struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// watchFlow returns the context for a transfer that begins now.
func watchFlow(ctx context.Context) (context.Context, *flow) {
	w := &flow{}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(stallTimeout, func() { w.cancel(errStalled) })
	return w.ctx, w
}

func (w *flow) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// reader counts what is read from r as progress of the transfer.
func (w *flow) reader(r io.Reader) io.Reader { return flowReader{r, w} }

// explain says of an error that a stall caused what it was.
func (w *flow) explain(err error) error {
	if err != nil && errors.Is(context.Cause(w.ctx), errStalled) {
		return fmt.Errorf("nothing came or went for %v", stallTimeout)
	}
	return err
}

type flowReader struct {
	io.Reader
	flow *flow
}

func (r flowReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.flow.timer.Reset(stallTimeout)
	}
	return n, err
}
