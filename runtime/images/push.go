package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Copies is on how many machines an image is kept at least, if there are so
// many: the loss of one makes no image unobtainable.
const Copies = 3

// Holders asks machines for an image: some have it whole, which they do when
// they have its manifest, for that is the last to come, and some lack it. Those
// that do not answer are neither.
func Holders(ctx context.Context, client *http.Client, endpoints []string, digest string) (have, lack []string) {
	statuses := make([]int, len(endpoints))
	var wg sync.WaitGroup
	for i, e := range endpoints {
		wg.Go(func() {
			statuses[i], _, _ = request(ctx, client, http.MethodHead, "https://"+e+BlobPath+digest, nil, 0)
		})
	}
	wg.Wait()
	for i, e := range endpoints {
		switch statuses[i] {
		case http.StatusOK:
			have = append(have, e)
		case http.StatusNotFound:
			lack = append(lack, e)
		}
	}
	return have, lack
}

// Push hands an image in an OCI layout to machines. It returns when at least
// Copies of them, or all, have all of it. Blobs that are there are not sent.
func Push(ctx context.Context, client *http.Client, endpoints []string, layout, digest string) error {
	m, err := ParseDigest(digest)
	if err != nil {
		return err
	}
	l := layoutDir(layout)
	data, err := os.ReadFile(l.path(m))
	if err != nil {
		return err
	}
	blobs, err := manifestBlobs(data)
	if err != nil {
		return err
	}
	blobs = append(blobs, m) // last: with the manifest an image counts as whole
	need := min(Copies, len(endpoints))
	if need == 0 {
		return errors.New("no machine of the cluster is known to take the image; run: plasmid up")
	}
	done := 0
	var errs []error
	for len(endpoints) > 0 && done < need {
		batch := endpoints[:min(need-done, len(endpoints))]
		endpoints = endpoints[len(batch):]
		results := make([]error, len(batch))
		var wg sync.WaitGroup
		for i, e := range batch {
			wg.Go(func() { results[i] = pushTo(ctx, client, e, blobs, l) })
		}
		wg.Wait()
		for i, err := range results {
			if err == nil {
				done++
			} else {
				errs = append(errs, fmt.Errorf("%s: %w", batch[i], err))
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if done < need {
		return fmt.Errorf("image %s reached %d of the %d machines it should be on: %w", digest, done, need, errors.Join(errs...))
	}
	return nil
}

// layoutDir is an OCI layout.
type layoutDir string

func (l layoutDir) path(d Digest) string {
	return filepath.Join(string(l), "blobs", "sha256", strings.TrimPrefix(string(d), "sha256:"))
}

func pushTo(ctx context.Context, client *http.Client, endpoint string, blobs []Digest, l layoutDir) error {
	for _, d := range blobs {
		if err := pushBlob(ctx, client, "https://"+endpoint+BlobPath+string(d), l.path(d)); err != nil {
			return fmt.Errorf("blob %s: %w", d, err)
		}
	}
	return nil
}

// pushBlob sends a file, unless the machine has the blob.
func pushBlob(ctx context.Context, client *http.Client, url, file string) error {
	ctx, w := watchFlow(ctx)
	defer w.stop()
	status, _, err := request(ctx, client, http.MethodHead, url, nil, 0)
	if err != nil || status == http.StatusOK {
		return w.explain(err)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	status, says, err := request(ctx, client, http.MethodPut, url, w.reader(f), info.Size())
	if err != nil {
		return w.explain(err)
	}
	if status != http.StatusCreated {
		return fmt.Errorf("the machine answers %d: %s", status, says)
	}
	return nil
}

// request returns the status of the answer and the beginning of its text.
func request(ctx context.Context, client *http.Client, method, url string, body io.Reader, size int64) (status int, says string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return 0, "", err
	}
	req.ContentLength = size
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return resp.StatusCode, strings.TrimSpace(string(text)), err
}
