package systemd

import "sync"

// all stands for every unit.
const all = ""

// news are the units that changed since somebody last looked, each once: it
// can't grow beyond the number of units, so no signal is ever dropped.
type news struct {
	arrived chan struct{}

	mu    sync.Mutex
	units map[string]struct{}
}

func newNews() news {
	return news{arrived: make(chan struct{}, 1), units: map[string]struct{}{}}
}

func (n *news) add(unit string) {
	n.mu.Lock()
	n.units[unit] = struct{}{}
	n.mu.Unlock()
	select {
	case n.arrived <- struct{}{}:
	default:
	}
}

// take returns what has come in; all of it is one name when all is among it.
func (n *news) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer clear(n.units)
	if _, ok := n.units[all]; ok {
		return []string{all}
	}
	names := make([]string, 0, len(n.units))
	for u := range n.units {
		names = append(names, u)
	}
	return names
}
