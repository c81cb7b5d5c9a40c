package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"plasmid/runtime/template"
)

const validateUsage = `usage: confd validate [-confdir DIR] [-sample FILE]… [-check] [-show]

Checks template resources and their templates without etcd and without touching
any file. With sample keys the templates are rendered too.

  confd validate -confdir ./confd
  confd validate -confdir ./confd -sample keys.yaml -check -show

`

// validate checks resources and templates offline.
func validate(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("confd validate", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, validateUsage); f.PrintDefaults() }
	confdir := f.String("confdir", "/etc/confd", "`directory` with conf.d and templates")
	prefix := f.String("prefix", "", "`path` put before every key")
	check := f.Bool("check", false, "run check_cmd on what was rendered")
	show := f.Bool("show", false, "print what was rendered")
	var samples list
	f.Var(&samples, "sample", "YAML or JSON `file` with keys; may be repeated")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see confd validate -help", f.Arg(0))
	}
	if len(samples) == 0 && (*check || *show) {
		return errors.New("-check and -show need -sample: without keys nothing is rendered")
	}
	rs, err := template.LoadResources(*confdir, *prefix)
	errs := []error{err}
	options := template.Options{Logger: slog.New(slog.DiscardHandler)}
	for _, r := range rs {
		var content []byte
		err := r.Parse()
		if err == nil && len(samples) > 0 {
			content, err = r.Try(ctx, template.Files{Names: samples}, *check, options)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name, err))
			continue
		}
		fmt.Fprintf(stdout, "%s: ok\n", filepath.Base(r.Name))
		if *show {
			fmt.Fprintf(stdout, "--- %s\n%s", r.Dest, content)
		}
	}
	return errors.Join(errs...)
}
