package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/spf13/cobra"
)

// unformatted is fmt --check's exit code when a file would change.
const unformatted exitCode = 3

func newFmtCommand(g *globals) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt [FILE…]",
		Short: "Put HCL files into the usual layout",
		Long: `Rewrites the cluster file, or the files named, in the layout that all HCL has,
and lists those it changed. A file named - is read from standard input and
written to standard output. With --check nothing is written, and the exit code
is 3 if a file would change.`,
		Example: "  plasmid fmt\n  plasmid fmt --check cluster.hcl apps/*/app.hcl",
		RunE: func(cmd *cobra.Command, files []string) error {
			if len(files) == 0 {
				files = []string{g.File}
			}
			changed := false
			for _, f := range files {
				c, err := formatFile(cmd, f, check)
				if err != nil {
					return err
				}
				changed = changed || c
			}
			if check && changed {
				return unformatted
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; exit 3 if a file would change")
	return cmd
}

func formatFile(cmd *cobra.Command, name string, check bool) (changed bool, err error) {
	if name == "-" {
		in, err := io.ReadAll(cmd.InOrStdin())
		if err != nil {
			return false, err
		}
		out, err := format(in, "standard input")
		if err == nil && !check {
			_, err = cmd.OutOrStdout().Write(out)
		}
		return !bytes.Equal(in, out), err
	}
	in, err := os.ReadFile(name)
	if err != nil {
		return false, err
	}
	out, err := format(in, name)
	if err != nil || bytes.Equal(in, out) {
		return false, err
	}
	fmt.Fprintln(cmd.OutOrStdout(), name)
	if check {
		return true, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return false, err
	}
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".new")
	if err := os.WriteFile(tmp, out, info.Mode().Perm()); err != nil {
		return false, err
	}
	return true, errors.Join(os.Rename(tmp, name))
}

// format refuses what can't be parsed: laying it out could change its meaning.
func format(in []byte, name string) ([]byte, error) {
	if _, diags := hclsyntax.ParseConfig(in, name, hcl.InitialPos); diags.HasErrors() {
		return nil, diags
	}
	return hclwrite.Format(in), nil
}
