package reboot

import "time"

// Sight is what the cluster's leader knows of a machine.
type Sight int

// The sights. A machine that is silent but answers a probe is Present.
const (
	Present Sight = iota
	Gone          // silent, and answers no probe
	Unknown       // forgotten: it will not return
)

// Lost keeps book of holders that are gone. A machine that reboots is gone for
// a while too, so only the one that stays away longer than its patience is lost.
// It must be asked with one leadership's sights only: what another leader saw
// does not count.
type Lost struct {
	since map[string]time.Time // by machine: since when it is gone without a break
}

// Of returns the holders that have lost the lock, and after what time to ask
// again; 0 is not before something changes.
func (l *Lost) Of(now time.Time, s Semaphore, sight func(machine string) Sight) (lost []Holder, again time.Duration) {
	for _, h := range s.Holders {
		switch sight(h.Machine) {
		case Unknown:
			lost = append(lost, h)
			continue
		case Present:
			delete(l.since, h.Machine)
			continue
		}
		if h.Operator {
			continue // an operator knows better
		}
		since, ok := l.since[h.Machine]
		if !ok {
			if l.since == nil {
				l.since = map[string]time.Time{}
			}
			since = now
			l.since[h.Machine] = now
		}
		left := max(time.Duration(h.PatienceSeconds)*time.Second, MinPatience) - now.Sub(since)
		if left <= 0 {
			lost = append(lost, h)
		} else if again == 0 || left < again {
			again = left
		}
	}
	return lost, again
}

// Forget is called when a machine was seen after all.
func (l *Lost) Forget(machine string) { delete(l.since, machine) }
