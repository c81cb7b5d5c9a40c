// Package container asks this machine's Docker about containers and has it
// fetch images.
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

const callTimeout = 5 * time.Second

// defaultNetwork is what Docker calls the one that containers are on if nothing
// else is said.
const defaultNetwork = "bridge"

// State is a container as Docker sees it.
type State struct {
	Exists  bool
	Running bool
	Health  string      // healthy, unhealthy, starting; empty: it has no check
	IP      string      // on Docker's default network, or else on one of its others
	Ports   map[int]int // of the container, TCP, to those of the host
}

// Docker is a connection to the Docker Engine. It is made when it is needed
// first, and again when the engine was restarted.
type Docker struct{ client *client.Client }

// New returns a Docker; it does not connect yet.
func New() (*Docker, error) {
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, err
	}
	return &Docker{c}, nil
}

// Close ends the connections.
func (d *Docker) Close() error { return d.client.Close() }

// Inspect returns the state of a container by name; Exists is false when there
// is none.
func (d *Docker) Inspect(ctx context.Context, name string) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, err := d.client.ContainerInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("asking Docker for container %s: %w", name, err)
	}
	s := State{Exists: true, Ports: map[int]int{}}
	if c.State != nil {
		s.Running = c.State.Running
		if c.State.Health != nil {
			s.Health = c.State.Health.Status
		}
	}
	if c.NetworkSettings != nil {
		networks := slices.Sorted(maps.Keys(c.NetworkSettings.Networks))
		for _, name := range append([]string{defaultNetwork}, networks...) {
			if n := c.NetworkSettings.Networks[name]; s.IP == "" && n != nil {
				s.IP = n.IPAddress
			}
		}
		for port, bindings := range c.NetworkSettings.Ports {
			if port.Proto() != "tcp" || len(bindings) == 0 {
				continue
			}
			if host, err := strconv.Atoi(bindings[0].HostPort); err == nil {
				s.Ports[port.Int()] = host
			}
		}
	}
	return s, nil
}

// Kill ends a container at once. That there is none, or that it has ended, is no
// error.
func (d *Docker) Kill(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := d.client.ContainerKill(ctx, name, "KILL")
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		return fmt.Errorf("killing container %s: %w", name, err)
	}
	return nil
}

// HasImage reports whether Docker has the image.
func (d *Docker) HasImage(ctx context.Context, ref string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := d.client.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// stalled is how long a pull may go without a word from Docker.
const stalled = 2 * time.Minute

// Pull fetches an image, and returns when it is there, when ctx ends or when
// Docker has told of no progress for two minutes.
func (d *Docker) Pull(ctx context.Context, ref string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stalled, func() {
		cancel(fmt.Errorf("Docker has told of no progress for %s; see: journalctl -u docker", stalled))
	})
	defer watch.Stop()
	err := d.pull(ctx, ref, func() { watch.Reset(stalled) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("pulling %s: %w", ref, cause)
	}
	return err
}

func (d *Docker) pull(ctx context.Context, ref string, progress func()) error {
	out, err := d.client.ImagePull(ctx, ref, image.PullOptions{})
	if err != nil {
		return fmt.Errorf("pulling %s: %w", ref, err)
	}
	defer out.Close()
	// What goes wrong on the way is told in the stream.
	dec := json.NewDecoder(out)
	for {
		var m struct {
			Error string `json:"error"`
		}
		err := dec.Decode(&m)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("pulling %s: %w", ref, err)
		case m.Error != "":
			return fmt.Errorf("pulling %s: %s", ref, strings.TrimSpace(m.Error))
		}
		progress()
	}
}

// Images returns the images that were pulled from a registry, as references by
// digest.
func (d *Docker) Images(ctx context.Context, registry string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	all, err := d.client.ImageList(ctx, image.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("asking Docker for its images: %w", err)
	}
	var refs []string
	for _, i := range all {
		for _, ref := range i.RepoDigests {
			if strings.HasPrefix(ref, registry+"/") {
				refs = append(refs, ref)
			}
		}
	}
	return refs, nil
}

// removeTimeout is for deleting an image's layers.
const removeTimeout = time.Minute

// RemoveImage removes an image, unless a container has it, be it one that has
// ended.
func (d *Docker) RemoveImage(ctx context.Context, ref string) (removed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	_, err = d.client.ImageRemove(ctx, ref, image.RemoveOptions{PruneChildren: true})
	switch {
	case errdefs.IsNotFound(err) || errdefs.IsConflict(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("removing image %s: %w", ref, err)
	}
	return true, nil
}
