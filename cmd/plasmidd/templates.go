package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/node"
	"plasmid/runtime/template"
)

// resync is how often the node's own templates are rendered though nothing
// was heard of a change.
const resync = 10 * time.Minute

// renderTemplates keeps the files of the node's own template resources in step
// with etcd until ctx ends. Without a directory for them there is nothing to
// do.
func renderTemplates(ctx context.Context, client *clientv3.Client, counted prometheus.Registerer, log *slog.Logger) {
	dir := filepath.Join(node.Dir, "confd")
	if _, err := os.Stat(filepath.Join(dir, "conf.d")); errors.Is(err, fs.ErrNotExist) {
		return
	}
	rs, err := template.LoadResources(dir, "")
	if err != nil {
		log.Error("template resources of this machine are left out", "err", err)
	}
	log.Info("rendering this machine's templates", "resources", len(rs))
	template.Watch(ctx, &template.Etcd{Client: client}, rs, template.Options{Logger: log, Resync: resync, Metrics: template.NewMetrics(counted)})
}
