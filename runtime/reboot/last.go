package reboot

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lastReboot reads when the machine last rebooted by itself; zero if it never
// did, or nobody knows.
func (n *Node) lastReboot() time.Time {
	data, err := os.ReadFile(filepath.Join(n.Dir, "last-reboot"))
	if err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(data)))
	if err != nil {
		return time.Time{}
	}
	return t
}

func (n *Node) noteReboot(t time.Time) error {
	return os.WriteFile(filepath.Join(n.Dir, "last-reboot"), []byte(t.UTC().Format(time.RFC3339)+"\n"), 0o644)
}
