package image

import (
	"context"
	"errors"
	"io"
	"testing"

	"plasmid/internal/progress"
)

func TestRunNotBegun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	task := progress.New(io.Discard, false).Start("a program")
	if err := run(ctx, task, nil, "", "sh", "-c", "true"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
