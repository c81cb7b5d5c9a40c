package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"plasmid/provision/join"
)

func newAccessCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "access", Short: "Give others access to the cluster, or take yours elsewhere"}
	var role, out string
	var days int
	issue := &cobra.Command{
		Use:   "issue NAME",
		Short: "Make a client certificate for a person or a program",
		Long: `Writes ca.crt, client.crt and client.key to a directory. A reader sees everything,
an operator also changes units and images, an admin also changes machines' metadata
and reads the audit log. A certificate can't be taken back before its time is over.`,
		Example: "  plasmid access issue alice --role operator --out alice/\n  plasmid access issue prometheus --role reader --days 90 --out /etc/prometheus/plasmid",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if days < 1 || days > 3650 {
				return fmt.Errorf("--days %d is not from 1 to 3650", days)
			}
			a, err := g.access()
			if err != nil {
				return err
			}
			cert, key, err := a.IssueUser(args[0], join.Role(role), time.Duration(days)*24*time.Hour)
			if err != nil {
				return err
			}
			if out == "" {
				out = args[0]
			}
			if err := writeAccess(out, a.CA(), cert, key); err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]string{"name": args[0], "role": role, "dir": out})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Access for %s as %s, for %d days, is in %s\n", args[0], role, days, out)
			return nil
		},
	}
	issue.Flags().StringVar(&role, "role", string(join.RoleReader), "reader, operator or admin")
	issue.Flags().StringVar(&out, "out", "", "the `directory`; by default one of that name here")
	issue.Flags().IntVar(&days, "days", 365, "for how long")
	cmd.AddCommand(issue, newAccessExportCommand(g), newAccessImportCommand(g))
	return cmd
}

// writeAccess writes the files, the key for their owner only. It takes no
// file's place.
func writeAccess(dir string, ca, cert, key []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files := []struct {
		name string
		data []byte
		mode os.FileMode
	}{{"client.key", key, 0o600}, {"client.crt", cert, 0o644}, {"ca.crt", ca, 0o644}}
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.name)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there already; choose another directory with --out, or remove it", filepath.Join(dir, f.name))
		}
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	return nil
}
