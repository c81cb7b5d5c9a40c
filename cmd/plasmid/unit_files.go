package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/quadlet"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// unitFile is a unit named on the command line, with its text if a file of it
// was found.
type unitFile struct {
	name string
	text string
}

// argument reads a command line argument: a file, or a unit's name. A name
// without a type is a service.
func argument(arg string) (unitFile, error) {
	name := filepath.Base(arg)
	if base, ok := strings.CutSuffix(name, quadlet.Ext); ok {
		return quadletFile(base+".service", arg)
	}
	if filepath.Ext(name) == "" {
		name += ".service"
		arg += ".service"
	}
	n, err := unit.ParseName(name)
	if err != nil {
		return unitFile{}, err
	}
	u := unitFile{name: name}
	candidates := []string{arg}
	if t := n.TemplateOf(); t != "" {
		candidates = append(candidates, filepath.Join(filepath.Dir(arg), t))
	}
	return firstFile(u, candidates)
}

// quadletFile reads a .container file, or that of its template. The unit is a
// service of the same name.
func quadletFile(name, arg string) (unitFile, error) {
	n, err := unit.ParseName(name)
	if err != nil {
		return unitFile{}, err
	}
	candidates := []string{arg}
	if t := n.TemplateOf(); t != "" {
		candidates = append(candidates, filepath.Join(filepath.Dir(arg), strings.TrimSuffix(t, ".service")+quadlet.Ext))
	}
	return firstFile(unitFile{name: name}, candidates)
}

// firstFile takes the text of the first of the files that exists.
func firstFile(u unitFile, candidates []string) (unitFile, error) {
	for _, c := range candidates {
		data, err := os.ReadFile(c)
		if err == nil {
			u.text = string(data)
			return u, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return u, err
		}
	}
	return u, nil
}

// changesFor makes the changes that bring the units named on the command line
// to a wish. The text of a unit is looked for as fleetctl did: the cluster's
// own, the file, the cluster's template, the template's file.
func changesFor(ctx context.Context, c *client.Client, args []string, wish store.Wish, replace bool, warn func(string)) ([]api.Change, error) {
	var files []unitFile
	var ask []string
	for _, a := range args {
		u, err := argument(a)
		if err != nil {
			return nil, err
		}
		files = append(files, u)
		ask = append(ask, u.name)
		if n, err := unit.ParseName(u.name); err == nil && n.TemplateOf() != "" {
			ask = append(ask, n.TemplateOf())
		}
	}
	list, err := c.Units(ctx, ask, true, 0)
	if err != nil {
		return nil, err
	}
	have := map[string]api.Unit{}
	for _, u := range list.Units {
		have[u.Name] = u
	}
	var changes []api.Change
	for _, f := range files {
		change := api.Change{Name: f.name, Wish: wish, Replace: replace}
		old, exists := have[f.name]
		n, err := unit.ParseName(f.name)
		if err != nil {
			return nil, err
		}
		switch {
		case exists && old.Text != "" && f.text != "" && f.text != old.Text:
			if replace {
				change.Text = f.text
			} else {
				warn(fmt.Sprintf("the file of %s differs from what the cluster has; --replace takes the file", f.name))
			}
		case exists && old.Text != "":
		case f.text != "":
			change.Text = f.text
		case have[n.TemplateOf()].Text != "":
			change.Text = have[n.TemplateOf()].Text
		default:
			return nil, fmt.Errorf("unit %s is neither known to the cluster nor a file here", f.name)
		}
		if change.Text != "" {
			file, err := unit.Parse(change.Text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			for _, w := range file.Warnings() {
				warn(f.name + ": " + w)
			}
		}
		changes = append(changes, change)
	}
	return changes, nil
}

func names(changes []api.Change) []string {
	out := make([]string, len(changes))
	for i, c := range changes {
		out[i] = c.Name
	}
	return out
}
