package reboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// room is the store and the machines of a test, in memory. Nodes do to it what
// they would do to the real ones.
type room struct {
	t *testing.T

	mu       sync.Mutex
	lock     Semaphore
	away     bool
	changed  chan struct{}
	required map[string]bool
	drain    func(ctx context.Context) error // nil: at once
	events   []string
	down     map[string]bool // between reboot and boot
	worst    int             // most that were down at a time
	stops    map[string]func()
	boots    map[string]int
}

func newRoom(t *testing.T) *room {
	return &room{t: t, changed: make(chan struct{}), required: map[string]bool{}, down: map[string]bool{}, stops: map[string]func(){}, boots: map[string]int{}}
}

func (r *room) note(format string, args ...any) {
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

func (r *room) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *room) ChangeReboot(_ context.Context, _ string, f func(Semaphore) (Semaphore, error)) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return 0, errors.New("the store is away")
	}
	next, err := f(r.lock)
	if err == nil {
		r.lock = next
		r.notify()
	}
	return 1, err
}

func (r *room) Reboots(string) (Semaphore, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lock, !r.away
}

func (r *room) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// one is one machine of the room.
type one struct {
	*room
	id string
}

func (o one) Required() (bool, []string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.required[o.id], []string{"linux-image"}, nil
}

func (o one) Busy() (string, error) { return "", nil }

func (o one) Drain(ctx context.Context) error {
	o.mu.Lock()
	drain := o.drain
	o.note("%s drains", o.id)
	o.mu.Unlock()
	if drain != nil {
		return drain(ctx)
	}
	return nil
}

func (o one) Undrain(context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.note("%s undrains", o.id)
	return nil
}

// Reboot takes the machine down for a minute.
func (o one) Reboot(context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.note("%s reboots", o.id)
	o.down[o.id] = true
	o.worst = max(o.worst, len(o.down))
	delete(o.required, o.id)
	stop := o.stops[o.id]
	time.AfterFunc(5*time.Second, stop)
	time.AfterFunc(time.Minute, func() {
		o.mu.Lock()
		delete(o.down, o.id)
		o.mu.Unlock()
		o.room.boot(o.id)
	})
	return nil
}

// boot starts a machine's node with a new boot ID.
func (r *room) boot(id string) *Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boots[id]++
	ctx, cancel := context.WithCancel(r.t.Context())
	o := one{r, id}
	p := Default()
	p.Auto = true
	n := New(Config{
		Machine: id, Name: "m-" + id, Boot: fmt.Sprint("boot-", r.boots[id]), Policy: p, Lock: r, Mirror: r, System: o, Drainer: o,
		Safe: func(context.Context) error { return nil }, Well: func(context.Context) error { return nil },
		Dir: r.t.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
	var wg sync.WaitGroup
	wg.Go(func() { n.Run(ctx) })
	r.stops[id] = func() { cancel(); wg.Wait() }
	return n
}

func (r *room) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.notify()
}

func (r *room) end() {
	for _, stop := range r.stops {
		stop()
	}
}

func TestMachinesRebootOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		defer r.end()
		for _, id := range []string{"a", "b", "c"} {
			r.required[id] = true
		}
		for _, id := range []string{"a", "b", "c"} {
			r.boot(id)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		for id, n := range r.boots {
			if n != 2 {
				t.Errorf("%s booted %d times", id, n)
			}
		}
		if r.worst != 1 || len(r.lock.Holders) != 0 {
			t.Errorf("%d were down at a time; the lock is %+v; events: %v", r.worst, r.lock, r.events)
		}
		if s := strings.Join(r.events, ", "); strings.Count(s, "drains, ") < 3 || strings.Count(s, "undrains") < 3 {
			t.Error(s)
		}
	})
}

// A drain that does not end in time gives the lock back, and is tried again.
func TestADrainThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		defer r.end()
		r.required["a"] = true
		r.drain = func(ctx context.Context) error {
			<-ctx.Done()
			return errors.New("units are left: db.service")
		}
		n := r.boot("a")
		time.Sleep(DefaultDrain + time.Second)
		synctest.Wait()
		if s := n.Status(); s.Holds || !strings.Contains(s.Reason, "units are left: db.service; tried again at") {
			t.Errorf("%+v", s)
		}
		r.set(func() { r.drain = nil })
		time.Sleep(retryAfter + 10*time.Second)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.down) != 1 {
			t.Errorf("it does not reboot: %v", r.events)
		}
	})
}

// While the store is away nothing is done, not even with the lock in hand.
func TestAStoreThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		defer r.end()
		r.required["a"] = true
		r.drain = func(context.Context) error {
			time.Sleep(time.Minute)
			return nil
		}
		n := r.boot("a")
		time.Sleep(30 * time.Second)
		r.set(func() { r.away = true })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := n.Status(); s.Known || !s.Drained || len(r.down) > 0 {
			t.Errorf("%+v, %v", s, r.events)
		}
		// Meanwhile it was taken for lost.
		r.set(func() { r.away, r.lock = false, lockOf(holder("b")) })
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := n.Status(); s.Drained || len(r.down) > 0 || !strings.Contains(s.Reason, "held by m-b") {
			t.Errorf("%+v, %v", s, r.events)
		}
	})
}

// What an operator asks for goes past the policy, and can be taken back.
func TestAskedAndCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		defer r.end()
		r.lock = lockOf(holder("b"))
		n := r.boot("a")
		n.Now()
		time.Sleep(time.Second)
		synctest.Wait()
		if s := n.Status(); !s.Asked || s.Required || !strings.Contains(s.Reason, "held by m-b") {
			t.Errorf("%+v", s)
		}
		n.Cancel()
		r.set(func() { r.lock = Semaphore{} })
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := n.Status(); s.Asked || s.Holds || s.Reason != "" {
			t.Errorf("%+v", s)
		}
		n.Now()
		time.Sleep(time.Second)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.down["a"] {
			t.Errorf("it does not reboot: %v", r.events)
		}
	})
}

// A process that begins anew takes back the drain that the last one left.
func TestALeftoverDrainIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		defer r.end()
		r.boot("a")
		time.Sleep(time.Minute)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.events) != 1 || r.events[0] != "a undrains" {
			t.Errorf("%v", r.events)
		}
	})
}

func TestHost(t *testing.T) {
	h := Host{t.TempDir()}
	if yes, packages, err := h.Required(); yes || packages != nil || err != nil {
		t.Error(yes, packages, err)
	}
	if busy, err := h.Busy(); busy != "" || err != nil {
		t.Error(busy, err)
	}
	for _, dir := range []string{"run", "var/lib/dpkg"} {
		if err := os.MkdirAll(filepath.Join(h.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{requiredFile: "*** System restart required ***\n", packagesFile: "linux-image\nlibc6\nlinux-image\n", dpkgLock: ""} {
		if err := os.WriteFile(filepath.Join(h.Root, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if yes, packages, err := h.Required(); !yes || strings.Join(packages, " ") != "libc6 linux-image" || err != nil {
		t.Error(yes, packages, err)
	}
	if busy, err := h.Busy(); busy != "" || err != nil {
		t.Error(busy, err)
	}
	// Locks of this kind are a process's: one's own is not seen, so this one is
	// of an open file, as nobody else holds it.
	f, err := os.OpenFile(filepath.Join(h.Root, dpkgLock), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	if busy, err := h.Busy(); busy != "packages are being installed" || err != nil {
		t.Error(busy, err)
	}
}
