package systemd

import (
	"slices"
	"sync"

	"github.com/godbus/dbus/v5"
)

// jobs are those that are awaited. No lock is held while systemd is called: a
// call that hangs holds up nobody else.
type jobs struct {
	mu      sync.Mutex
	calls   int // that may return a job
	waiting map[dbus.ObjectPath][]chan string
	early   map[dbus.ObjectPath]string // jobs that ended while a call was under way
}

// begin is called before a job is asked for.
func (j *jobs) begin() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls++
}

// queued is called when a job was asked for; path is empty if there is none.
// The channel gets the job's result.
func (j *jobs) queued(path dbus.ObjectPath) chan string {
	j.mu.Lock()
	defer j.mu.Unlock()
	done := make(chan string, 1)
	if path != "" {
		if result, ok := j.early[path]; ok {
			done <- result
		} else {
			if j.waiting == nil {
				j.waiting = map[dbus.ObjectPath][]chan string{}
			}
			j.waiting[path] = append(j.waiting[path], done)
		}
	}
	if j.calls--; j.calls == 0 {
		j.early = nil
	}
	return done
}

// ended is called with every job that systemd says has ended.
func (j *jobs) ended(path dbus.ObjectPath, result string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, done := range j.waiting[path] {
		done <- result
	}
	delete(j.waiting, path)
	if j.calls > 0 {
		if j.early == nil {
			j.early = map[dbus.ObjectPath]string{}
		}
		j.early[path] = result
	}
}

// forget takes back the wish to hear of a job.
func (j *jobs) forget(path dbus.ObjectPath, done chan string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	rest := slices.DeleteFunc(j.waiting[path], func(c chan string) bool { return c == done })
	if len(rest) == 0 {
		delete(j.waiting, path)
	} else {
		j.waiting[path] = rest
	}
}
