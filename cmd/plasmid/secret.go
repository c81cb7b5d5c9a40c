package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"plasmid/runtime/api"
	"plasmid/runtime/store"
)

func newSecretCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Give apps secrets, as files in their containers",
		Long: `Secrets are kept in the cluster's store, where only machines and operators can
read, and are files in the app's containers: <mount>/secrets/NAME, where <mount>
is where the unit mounts /run/plasmid/apps/APP. They are in memory there, and only
the user of --uid can read them.`,
	}
	cmd.AddCommand(newSecretSetCommand(g), newSecretListCommand(g), newSecretRemoveCommand(g))
	return cmd
}

func newSecretSetCommand(g *globals) *cobra.Command {
	var file string
	var uid int
	cmd := &cobra.Command{
		Use:   "set APP NAME",
		Short: "Set a secret from standard input or a file",
		Example: `  plasmid secret set shop db-password                 # asks for it
  pwgen 32 1 | plasmid secret set shop db-password
  plasmid secret set shop tls.key --from-file tls.key --uid 33`,
		Long: `Sets a secret to what standard input, or the file, holds, byte by byte. On a
terminal it asks. Running containers see the new file within a second.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := store.CheckSecret(args[0], args[1]); err != nil {
				return err
			}
			value, err := secretValue(cmd, file, args[1])
			if err != nil {
				return err
			}
			c, err := g.Client()
			if err != nil {
				return err
			}
			changed, err := c.SetSecret(cmd.Context(), args[0], args[1], api.SecretValue{Value: value, UID: uid})
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]any{"app": args[0], "name": args[1], "changed": changed})
			}
			said := "is set"
			if !changed {
				said = "was so already; nothing was changed"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Secret %s of app %s %s.\n", args[1], args[0], said)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "from-file", "", "read the secret from this `file`")
	cmd.Flags().IntVar(&uid, "uid", 0, "number of the user who reads it in the containers")
	return cmd
}

// secretValue reads a secret. It is never an argument: others see those.
func secretValue(cmd *cobra.Command, file, name string) ([]byte, error) {
	var value []byte
	var err error
	in, isFile := cmd.InOrStdin().(*os.File)
	switch {
	case file != "":
		value, err = os.ReadFile(file)
	case isFile && term.IsTerminal(int(in.Fd())):
		value, err = ask(in, cmd.ErrOrStderr(), name+": ")
	default:
		value, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), store.MaxSecret+1))
	}
	switch {
	case err != nil:
		return nil, err
	case len(value) == 0:
		return nil, errors.New("the secret is empty; give it on standard input or with --from-file")
	case len(value) > store.MaxSecret:
		return nil, fmt.Errorf("the secret is longer than %d KiB", store.MaxSecret>>10)
	}
	return value, nil
}

func newSecretListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list [APP]",
		Short:   "List secrets, without their values",
		Example: "  plasmid secret list shop",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			list, err := c.Secrets(cmd.Context(), append(args, "")[0])
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), list)
			}
			columns := []string{"app", "name", "bytes", "uid", "changed"}
			t := table{fields: columns, columns: map[string]bool{}}
			var rows []map[string]string
			for _, c := range columns {
				t.columns[c] = true
			}
			for _, s := range list {
				rows = append(rows, map[string]string{"app": s.App, "name": s.Name, "bytes": strconv.Itoa(s.Bytes), "uid": strconv.Itoa(s.UID), "changed": s.Changed.Local().Format(time.DateTime)})
			}
			return t.print(cmd.OutOrStdout(), rows)
		},
	}
}

func newSecretRemoveCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "rm APP NAME…",
		Short:   "Remove secrets, from running containers too",
		Example: "  plasmid secret rm shop db-password",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			for _, name := range args[1:] {
				if err := c.RemoveSecret(cmd.Context(), args[0], name); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Secret %s of app %s is removed.\n", name, args[0])
			}
			return nil
		},
	}
}
