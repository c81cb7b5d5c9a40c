package template

import (
	"context"
	"os"
	"strings"
)

// Env is a Store over environment variables: key /app/port is APP_PORT.
type Env struct{}

// Get finds the variables for the keys and what is below them.
func (Env) Get(_ context.Context, keys []string) (map[string]string, int64, error) {
	found := map[string]string{}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		for _, key := range keys {
			want := strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(key, "/"), "/", "_"))
			rest, ok := strings.CutPrefix(name, want)
			if ok && (rest == "" || want == "" || strings.HasPrefix(rest, "_")) {
				found[key+strings.ToLower(strings.ReplaceAll(rest, "_", "/"))] = value
			}
		}
	}
	return found, 0, nil
}

// Watch waits for ctx: a process's environment does not change from outside.
func (Env) Watch(ctx context.Context, _ []string, _ int64) error {
	<-ctx.Done()
	return ctx.Err()
}
