package image

import (
	"encoding/json"
	"os"
	"time"
)

// Manifest says what an image is made of.
type Manifest struct {
	ID        string      `json:"id"`
	Format    int         `json:"format"`
	Created   time.Time   `json:"created"`
	Suite     string      `json:"suite"`
	Inputs    Inputs      `json:"inputs"`
	TreeBytes int64       `json:"treeBytes"`
	Disk      *Disk       `json:"disk,omitempty"`
	Phases    []PhaseTime `json:"phases"`
	Packages  []Package   `json:"packages"`
}

// Inputs are what the identity was computed from.
type Inputs struct {
	PackageKey string            `json:"packageKey"`
	Playbooks  []string          `json:"playbooks"`
	Vars       map[string]any    `json:"vars,omitempty"`
	Binaries   map[string]string `json:"binaries"` // name to SHA-256
	// Source is what an image in the cloud was built from; nil: it was built
	// here.
	Source *Source `json:"source,omitempty"`
}

// Source is an image in a cloud that others are built from.
type Source struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Checksum string `json:"checksum,omitempty"`
}

// Disk describes the qcow2.
type Disk struct {
	Bytes      int64  `json:"bytes"`
	VirtualGiB int    `json:"virtualGiB"`
	SHA256     string `json:"sha256"`
}

// PhaseTime is how long a phase of the build took.
type PhaseTime struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// writeJSON writes a file whole or not at all.
func writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
