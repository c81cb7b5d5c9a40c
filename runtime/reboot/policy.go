package reboot

import (
	"fmt"
	"regexp"
	"time"
)

// Policy is how a machine reboots.
type Policy struct {
	// Auto has the machine reboot by itself when the system asks for it.
	Auto   bool
	Group  string // machines of a group share a lock
	Max    int    // how many of the group may reboot at a time, at least 1
	Window Window
	// Drain is how long moving the units away may take.
	Drain time.Duration
	// Patience is how long the machine may be gone, while it has the lock,
	// before it is taken for lost.
	Patience time.Duration
}

// Defaults and limits of a policy.
const (
	DefaultGroup    = "default"
	DefaultMax      = 1
	DefaultLength   = time.Hour
	DefaultDrain    = 10 * time.Minute
	DefaultPatience = 10 * time.Minute
	MinPatience     = 30 * time.Second
)

// Default is the policy of a machine whose cluster file says nothing: it
// reboots only when an operator says so.
func Default() Policy {
	return Policy{Group: DefaultGroup, Max: DefaultMax, Drain: DefaultDrain, Patience: DefaultPatience}
}

var groupPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// CheckGroup refuses names that would not do as a key of the store.
func CheckGroup(name string) error {
	if !groupPattern.MatchString(name) {
		return fmt.Errorf("%q is no name of a reboot group: use lower-case letters, digits and hyphens, at most 63", name)
	}
	return nil
}
