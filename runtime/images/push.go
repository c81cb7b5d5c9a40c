package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Copies is on how many machines an image is kept at least, if there are so
// many: the loss of one makes no image unobtainable.
const Copies = 3

// Push hands an image in an OCI layout to machines. It returns when at least
// Copies of them, or all, have all of it. Blobs that are there are not sent.
func Push(ctx context.Context, client *http.Client, endpoints []string, layout, digest string) error {
	open := func(d Digest) (*os.File, error) {
		return os.Open(filepath.Join(layout, "blobs", "sha256", strings.TrimPrefix(string(d), "sha256:")))
	}
	m, err := ParseDigest(digest)
	if err != nil {
		return err
	}
	f, err := open(m)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(f.Name())
	f.Close()
	if err != nil {
		return err
	}
	blobs, err := manifestBlobs(data)
	if err != nil {
		return err
	}
	blobs = append(blobs, m) // last: with the manifest an image counts as whole
	need := min(Copies, len(endpoints))
	done := 0
	var errs []error
	for len(endpoints) > 0 && done < need {
		batch := endpoints[:min(need-done, len(endpoints))]
		endpoints = endpoints[len(batch):]
		results := make([]error, len(batch))
		var g errgroup.Group
		for i, e := range batch {
			g.Go(func() error {
				results[i] = pushTo(ctx, client, e, blobs, open)
				return nil
			})
		}
		_ = g.Wait() // the results say it
		for i, err := range results {
			if err == nil {
				done++
			} else {
				errs = append(errs, fmt.Errorf("%s: %w", batch[i], err))
			}
		}
	}
	if done < need {
		return fmt.Errorf("image %s reached %d machines, not %d: %w", digest, done, need, errors.Join(errs...))
	}
	return nil
}

func pushTo(ctx context.Context, client *http.Client, endpoint string, blobs []Digest, open func(Digest) (*os.File, error)) error {
	for _, d := range blobs {
		url := "https://" + endpoint + BlobPath + string(d)
		head, err := request(ctx, client, http.MethodHead, url, nil)
		if err != nil {
			return err
		}
		if head == http.StatusOK {
			continue
		}
		f, err := open(d)
		if err != nil {
			return err
		}
		status, err := request(ctx, client, http.MethodPut, url, f)
		f.Close()
		if err != nil {
			return err
		}
		if status != http.StatusCreated {
			return fmt.Errorf("blob %s: the machine answers %s", d, http.StatusText(status))
		}
	}
	return nil
}

func request(ctx context.Context, client *http.Client, method, url string, body *os.File) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, err
	}
	if body != nil {
		info, err := body.Stat()
		if err != nil {
			return 0, err
		}
		req.Body, req.ContentLength = body, info.Size()
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
