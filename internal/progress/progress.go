// Package progress shows what long operations are doing: a live line per
// running task on a terminal, plain lines elsewhere.
package progress

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// Log writes the progress of tasks to one writer. A nil *Log is silent.
type Log struct {
	mu      sync.Mutex
	w       io.Writer
	tty     bool
	running []*Task
	drawn   int // live lines on the terminal now
	stop    chan struct{}
}

// Task is one named piece of work. A nil *Task is silent.
type Task struct {
	log    *Log
	name   string
	detail string
	start  time.Time
}

// New returns a Log that writes to w; tty says that w is a terminal and lines
// can be redrawn.
func New(w io.Writer, tty bool) *Log { return &Log{w: w, tty: tty} }

// Start begins a task. End it with Done.
func (l *Log) Start(format string, args ...any) *Task {
	if l == nil {
		return nil
	}
	t := &Task{log: l, name: fmt.Sprintf(format, args...), start: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = append(l.running, t)
	if !l.tty {
		fmt.Fprintf(l.w, "  %s ...\n", t.name)
		return t
	}
	if l.stop == nil {
		l.stop = make(chan struct{})
		go l.tick(l.stop)
	}
	l.redraw()
	return t
}

// Printf writes a line of its own above the running tasks.
func (l *Log) Printf(format string, args ...any) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	fmt.Fprintf(l.w, format+"\n", args...)
	l.redraw()
}

// Update sets the detail shown behind the task's name on a terminal.
func (t *Task) Update(format string, args ...any) {
	if t == nil {
		return
	}
	t.log.mu.Lock()
	defer t.log.mu.Unlock()
	t.detail = fmt.Sprintf(format, args...)
	t.log.redraw()
}

// Done ends the task and prints its outcome and time. It returns err, so that
// a caller can end with return task.Done(err).
func (t *Task) Done(err error) error {
	if t == nil {
		return err
	}
	l := t.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	for i, r := range l.running {
		if r == t {
			l.running = append(l.running[:i], l.running[i+1:]...)
			break
		}
	}
	mark := "✓"
	if err != nil {
		mark = "✗"
	}
	fmt.Fprintf(l.w, "%s %s  %s\n", mark, t.name, round(time.Since(t.start)))
	if len(l.running) == 0 && l.stop != nil {
		close(l.stop)
		l.stop = nil
	}
	l.redraw()
	return err
}

func (l *Log) tick(stop chan struct{}) {
	tk := time.NewTicker(500 * time.Millisecond)
	defer tk.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tk.C:
			l.mu.Lock()
			l.redraw()
			l.mu.Unlock()
		}
	}
}

func (l *Log) clear() {
	if l.tty && l.drawn > 0 {
		fmt.Fprintf(l.w, "\x1b[%dA\x1b[J", l.drawn)
		l.drawn = 0
	}
}

func (l *Log) redraw() {
	if !l.tty {
		return
	}
	l.clear()
	for _, t := range l.running {
		line := fmt.Sprintf("· %s  %s", t.name, round(time.Since(t.start)))
		if t.detail != "" {
			line += "  " + t.detail
		}
		if r := []rune(line); len(r) > 78 {
			line = string(r[:77]) + "…"
		}
		fmt.Fprintln(l.w, line)
		l.drawn++
	}
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

type key struct{}

// With returns a context that carries l.
func With(ctx context.Context, l *Log) context.Context { return context.WithValue(ctx, key{}, l) }

// From returns the context's Log, or nil (silent) if it has none.
func From(ctx context.Context) *Log {
	l, _ := ctx.Value(key{}).(*Log)
	return l
}
