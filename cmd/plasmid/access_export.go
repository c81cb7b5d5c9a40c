package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"plasmid/provision"
	"plasmid/provision/join"
)

// minPassphrase is in bytes: the file is as good as the cluster itself, and who
// has it may guess for as long as he likes.
const minPassphrase = 12

func newAccessExportCommand(g *globals) *cobra.Command {
	var phraseFile string
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write the operator's access to the cluster to one encrypted file",
		Long: `Writes the cluster's authority, the operator's certificate, the SSH key, the
machines' pinned host keys and the list of members to a new file, encrypted with a
passphrase in the format of age. Whoever has both owns the cluster. With plasmid
access import another workstation carries on from there.

The passphrase is asked for twice, or read from the first line of a file.`,
		Example: "  plasmid access export demo.age\n  plasmid access export /mnt/backup/demo.age --passphrase-file ~/.demo-passphrase",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := g.clusterName()
			if err != nil {
				return err
			}
			a, err := g.access()
			if err != nil {
				return err
			}
			if _, err := os.Lstat(args[0]); err == nil {
				return fmt.Errorf("%s is there already; choose another name, or remove it", args[0])
			}
			phrase, err := passphrase(cmd, phraseFile, true)
			if err != nil {
				return err
			}
			// Nobody adds a machine meanwhile.
			unlock, err := provision.Lock(g.StateDir(), name)
			if err != nil {
				return err
			}
			defer unlock()
			var out bytes.Buffer
			if err := a.Export(&out, name, phrase); err != nil {
				return err
			}
			if err := writeNew(args[0], out.Bytes()); err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]string{"cluster": name, "file": args[0]})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Access to cluster %q is in %s. Elsewhere: plasmid access import %s\n", name, args[0], filepath.Base(args[0]))
			return nil
		},
	}
	cmd.Flags().StringVar(&phraseFile, "passphrase-file", "", "read the passphrase from this `file`")
	return cmd
}

func newAccessImportCommand(g *globals) *cobra.Command {
	var phraseFile string
	var replace bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take over the access to a cluster from another workstation",
		Long: `Reads what plasmid access export wrote. Afterwards all commands work here as they
did there. It needs no cluster file; plan, up and down do, as ever.

If there is access to a cluster of that name already, nothing is changed but with
--replace: it may be to another cluster, or newer than the file.`,
		Example: "  plasmid access import demo.age\n  plasmid access import demo.age --passphrase-file ~/.demo-passphrase --replace",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			phrase, err := passphrase(cmd, phraseFile, false)
			if err != nil {
				return err
			}
			e, err := join.ReadExport(f, phrase)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			unlock, err := provision.Lock(g.StateDir(), e.Cluster())
			if err != nil {
				return err
			}
			defer unlock()
			a, err := e.Save(g.accessDir(e.Cluster()), replace)
			if errors.Is(err, os.ErrExist) {
				return fmt.Errorf("there is access to a cluster %q here already, in %s; to put the file's in its place: --replace", e.Cluster(), g.accessDir(e.Cluster()))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			members, err := a.Members()
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]any{"cluster": e.Cluster(), "machines": len(members), "dir": a.Dir})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Access to cluster %q (%d machines) is here now. Try: %s list-machines\n", e.Cluster(), len(members), os.Args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&phraseFile, "passphrase-file", "", "read the passphrase from this `file`")
	cmd.Flags().BoolVar(&replace, "replace", false, "take the place of the access that is here")
	return cmd
}

// passphrase asks for one, twice if it is new, or reads it from a file. It is
// never an argument: others see those.
func passphrase(cmd *cobra.Command, file string, isNew bool) (string, error) {
	var phrase []byte
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		phrase, _, _ = bytes.Cut(data, []byte("\n"))
		phrase = bytes.TrimSuffix(phrase, []byte("\r"))
	} else {
		in, isFile := cmd.InOrStdin().(*os.File)
		if !isFile || !term.IsTerminal(int(in.Fd())) {
			return "", errors.New("nobody can be asked for the passphrase here; give a file that holds it with --passphrase-file")
		}
		var err error
		if phrase, err = ask(in, cmd.ErrOrStderr(), "Passphrase: "); err != nil {
			return "", err
		}
		if isNew {
			again, err := ask(in, cmd.ErrOrStderr(), "The same again: ")
			if err != nil {
				return "", err
			}
			if !bytes.Equal(phrase, again) {
				return "", errors.New("the two passphrases differ; nothing was written")
			}
		}
	}
	switch {
	case len(phrase) == 0:
		return "", errors.New("the passphrase is empty")
	case isNew && len(phrase) < minPassphrase:
		return "", fmt.Errorf("the passphrase has fewer than %d characters; take some words", minPassphrase)
	}
	return string(phrase), nil
}

func ask(in *os.File, out io.Writer, prompt string) ([]byte, error) {
	fmt.Fprint(out, prompt)
	answer, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(out)
	return answer, err
}

// writeNew writes a file for its owner only, which is not there before, whole
// or not at all.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
