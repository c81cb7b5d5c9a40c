package images

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"syscall"
	"time"
)

// The media types of manifests, Docker's and OCI's. A manifest without a type
// is OCI's.
const ociManifest = "application/vnd.oci.image.manifest.v1+json"

// maxManifest is the largest manifest, in bytes, as the distribution
// specification recommends.
const maxManifest = 4 << 20

// Registry serves Docker what it pulls, by digest only and read-only: the pull
// part of the OCI distribution specification. It belongs on loopback, where
// Docker asks for no TLS.
func (s *Store) Registry() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	})
	serve := func(w http.ResponseWriter, r *http.Request) {
		// The name of a repository may have slashes; the digest says it all.
		kind, digest, ok := splitV2(r.URL.Path)
		if !ok {
			http.NotFound(w, r)
			return
		}
		s.serve(w, r, digest, kind == "manifests")
	}
	mux.HandleFunc("GET /v2/", serve)
	return mux
}

// splitV2 takes /v2/<name>/<kind>/<digest> apart.
func splitV2(path string) (kind string, d Digest, ok bool) {
	rest, last := cutLast(path)
	rest, kind = cutLast(rest)
	d, err := ParseDigest(last)
	return kind, d, err == nil && len(rest) > len("/v2/") && (kind == "manifests" || kind == "blobs")
}

func cutLast(path string) (before, last string) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i], path[i+1:]
		}
	}
	return "", path
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request, d Digest, manifest bool) {
	f, err := s.Get(d)
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, ErrNoBlob) {
			status = http.StatusNotFound
		}
		http.Error(w, err.Error(), status)
		return
	}
	defer f.Close()
	contentType := "application/octet-stream"
	if manifest {
		contentType = mediaType(f)
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Docker-Content-Digest", string(d))
	// A blob never changes; it has no date of its own.
	http.ServeContent(w, r, "", time.Time{}, f)
}

func mediaType(r io.Reader) string {
	var m struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxManifest)).Decode(&m); err != nil || m.MediaType == "" {
		return ociManifest
	}
	return m.MediaType
}

// BlobPath is where Blobs is mounted.
const BlobPath = "/plasmid/v1/blobs/"

// Blobs serves and takes blobs for operators and other machines: GET, HEAD and
// PUT of BlobPath<digest>. Who may ask is decided before.
func (s *Store) Blobs() http.Handler {
	mux := http.NewServeMux()
	with := func(f func(http.ResponseWriter, *http.Request, Digest)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			d, err := ParseDigest(r.PathValue("digest"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			f(w, r, d)
		}
	}
	mux.HandleFunc("GET "+BlobPath+"{digest}", with(func(w http.ResponseWriter, r *http.Request, d Digest) {
		s.serve(w, r, d, false)
	}))
	mux.HandleFunc("PUT "+BlobPath+"{digest}", with(func(w http.ResponseWriter, r *http.Request, d Digest) {
		if err := s.Put(d, r.Body); err != nil {
			http.Error(w, err.Error(), putStatus(err))
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	return mux
}

func putStatus(err error) int {
	switch {
	case errors.Is(err, ErrDamaged):
		return http.StatusBadRequest
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}
