package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Docker is what images are handed to.
type Docker interface {
	HasImage(ctx context.Context, ref string) (bool, error)
	Pull(ctx context.Context, ref string) error
}

// Fetcher sees to it that Docker has an image: from the blobs of this machine,
// which it completes from those of others.
type Fetcher struct {
	Store  *Store
	Docker Docker
	// Peers lists the API endpoints, host:port, of the other machines.
	Peers func() []string
	// Client speaks mutual TLS.
	Client *http.Client
	// Registry is where Store.Registry listens, host:port.
	Registry string

	mu      sync.Mutex
	running map[string]*ensuring
}

type ensuring struct {
	done chan struct{}
	err  error
}

// fetchTimeout is for one image, from all peers together.
const fetchTimeout = 10 * time.Minute

// Ensure returns when Docker has the image. Images of the cluster's own are
// named <Registry>/<name>@sha256:…; others are left to Docker.
func (f *Fetcher) Ensure(ctx context.Context, ref string) error {
	if ok, err := f.Docker.HasImage(ctx, ref); err != nil || ok {
		return err
	}
	f.mu.Lock()
	if f.running == nil {
		f.running = map[string]*ensuring{}
	}
	e := f.running[ref]
	if e == nil {
		// Several units may wait for one image: it is fetched once, and
		// goes on when the first of them is no longer wanted.
		e = &ensuring{done: make(chan struct{})}
		f.running[ref] = e
		go func() {
			fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
			defer cancel()
			e.err = f.ensure(fctx, ref)
			f.mu.Lock()
			delete(f.running, ref)
			f.mu.Unlock()
			close(e.done)
		}()
	}
	f.mu.Unlock()
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Fetcher) ensure(ctx context.Context, ref string) error {
	name, digest, ok := strings.Cut(ref, "@")
	if !ok || !strings.HasPrefix(name, f.Registry+"/") {
		return f.Docker.Pull(ctx, ref)
	}
	d, err := ParseDigest(digest)
	if err != nil {
		return err
	}
	blobs, err := f.complete(ctx, d)
	if err != nil {
		return err
	}
	err = f.Docker.Pull(ctx, ref)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// Docker checks what it reads. What this machine's disk spoiled is
	// fetched again from those that still have it.
	dropped := false
	for _, b := range append(blobs, d) {
		bad, derr := f.Store.dropDamaged(b)
		if derr != nil {
			return errors.Join(err, derr)
		}
		dropped = dropped || bad
	}
	if !dropped {
		return err
	}
	if _, err := f.complete(ctx, d); err != nil {
		return err
	}
	return f.Docker.Pull(ctx, ref)
}

// manifest is what is common to Docker's and OCI's image manifests.
type manifest struct {
	Config struct{ Digest string }
	Layers []struct{ Digest string }
}

// manifestBlobs lists what a manifest names, its config first.
func manifestBlobs(data []byte) ([]Digest, error) {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("image manifest: %w", err)
	}
	var ds []Digest
	config, err := ParseDigest(m.Config.Digest)
	if err != nil {
		return nil, fmt.Errorf("image manifest: config: %w", err)
	}
	ds = append(ds, config)
	for _, l := range m.Layers {
		d, err := ParseDigest(l.Digest)
		if err != nil {
			return nil, fmt.Errorf("image manifest: layer: %w", err)
		}
		ds = append(ds, d)
	}
	return ds, nil
}

// complete fetches the manifest and all it names, as far as they are missing,
// and lists what it names.
func (f *Fetcher) complete(ctx context.Context, d Digest) ([]Digest, error) {
	peers := &peers{endpoints: f.Peers()}
	if err := f.fetch(ctx, peers, d); err != nil {
		return nil, err
	}
	blobs, err := f.Store.named(d)
	if err != nil {
		return nil, err
	}
	for _, b := range blobs {
		if err := f.fetch(ctx, peers, b); err != nil {
			return nil, err
		}
	}
	return blobs, nil
}

// named lists the blobs that the manifest d names.
func (s *Store) named(d Digest) ([]Digest, error) {
	file, err := s.Get(d)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxManifest))
	if err != nil {
		return nil, err
	}
	return manifestBlobs(data)
}

// peers are the machines to ask, those that failed last at the end, so that a
// machine that is away costs its time-out once and not once a blob.
type peers struct{ endpoints []string }

func (p *peers) failed(endpoint string) {
	p.endpoints = append(slices.DeleteFunc(p.endpoints, func(e string) bool { return e == endpoint }), endpoint)
}

// fetch asks one peer after the other for a blob.
func (f *Fetcher) fetch(ctx context.Context, p *peers, d Digest) error {
	if f.Store.Has(d) {
		return nil
	}
	var errs []error
	for _, e := range slices.Clone(p.endpoints) {
		err := f.fetchFrom(ctx, e, d)
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
		p.failed(e)
	}
	if len(errs) == 0 {
		return fmt.Errorf("blob %s is not here, and no other machine reports; it is fetched when one does", d)
	}
	return fmt.Errorf("blob %s came from none of %d other machines; plasmid app deploy hands it out again: %w", d, len(errs), errors.Join(errs...))
}

func (f *Fetcher) fetchFrom(ctx context.Context, peer string, d Digest) error {
	ctx, w := watchFlow(ctx)
	defer w.stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+peer+BlobPath+string(d), nil)
	if err != nil {
		return err
	}
	resp, err := f.Client.Do(req)
	if err != nil {
		return w.explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", peer, resp.Status)
	}
	if err := f.Store.Put(d, w.reader(resp.Body)); err != nil {
		return fmt.Errorf("%s: %w", peer, w.explain(err))
	}
	return nil
}
