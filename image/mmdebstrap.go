package image

import (
	"context"
	"fmt"
	"os"
	"strings"

	"plasmid/internal/progress"
)

// keyring holds the keys of Debian's archive.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// mmdebstrap makes a tree of Debian packages: a directory, or a tar file if its
// name ends in .tar.
func mmdebstrap(ctx context.Context, t *progress.Task, tree, suite, variant string, packages []string, p aptPolicy) error {
	args := []string{"--mode=root", "--variant=" + variant,
		"--aptopt=Acquire::Languages \"none\"",
		"--aptopt=APT::Install-Recommends \"false\"",
		"--aptopt=Acquire::Retries \"3\"",
		"--include=" + strings.Join(packages, ","),
	}
	if _, err := os.Stat(keyring); err == nil {
		args = append(args, "--keyring="+keyring)
	}
	for _, o := range p.Options {
		args = append(args, "--aptopt="+strings.TrimSuffix(o, ";"))
	}
	for _, o := range excluded {
		args = append(args, "--dpkgopt="+o)
	}
	args = append(args, suite, tree)
	if p.Mirror != "" {
		args = append(args, p.Mirror)
	}
	if strings.HasSuffix(tree, ".tar") {
		args = append([]string{"--format=tar"}, args...)
	} else {
		args = append([]string{"--format=directory"}, args...)
	}
	see := func(line string) {
		if rest, ok := strings.CutPrefix(line, "I: "); ok {
			t.Update("%s", strings.TrimSuffix(rest, "..."))
		}
	}
	// SOURCE_DATE_EPOCH is left alone; packages carry their own dates.
	err := runIn(ctx, t, []string{"DEBIAN_FRONTEND=noninteractive"}, "", true, see, "mmdebstrap", args...)
	if err != nil && ctx.Err() == nil {
		from := "the default mirror"
		if p.Mirror != "" {
			from = p.Mirror
		}
		return fmt.Errorf("making a tree of Debian %s from %s: %w\ncheck that the mirror can be reached (mirror and proxy come from this host's apt, or from the image block of the cluster file)", suite, from, err)
	}
	return err
}

// Base makes a small Debian tree, as a tar file, for container images.
func Base(ctx context.Context, t *progress.Task, tree, suite string, packages []string) error {
	p, err := hostPolicy(ctx)
	if err != nil {
		return err
	}
	return mmdebstrap(ctx, t, tree, suite, "minbase", packages, p)
}
