package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"plasmid/runtime/api"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// Scale brings the instances of a template to a number, numbered from 1: new
// ones are as those that run, or, when none does, as the app's directory says.
// It waits until they are ready. The next deployment brings them to the number
// in app.hcl.
func Scale(ctx context.Context, c Cluster, a *App, template string, count int, build func() ([]Built, error)) (Result, error) {
	var r Result
	i := slices.IndexFunc(a.Units, func(u Unit) bool { return u.Name == template })
	if i < 0 {
		return r, fmt.Errorf("app %s has no unit %s; it has: %s", a.Name, template, templates(a))
	}
	u := a.Units[i]
	n, err := unit.ParseName(u.Name)
	if err != nil {
		return r, err
	}
	if !n.Template {
		return r, fmt.Errorf("%s is no template; those with instances are: %s", template, templates(a))
	}
	if count < 0 || count > maxInstances {
		return r, fmt.Errorf("%d instances are not possible; it is from 0 to %d", count, maxInstances)
	}
	have, err := deployed(ctx, c.Client, a.Name)
	if err != nil {
		return r, err
	}
	if len(have) == 0 {
		return r, fmt.Errorf("app %s is not deployed; run: plasmid app deploy %s", a.Name, a.Name)
	}
	running := map[int]api.Unit{}
	for _, old := range have {
		o, err := unit.ParseName(old.Name)
		if err != nil || o.TemplateOf() != u.Name {
			continue
		}
		if number, err := strconv.Atoi(o.Instance); err == nil {
			running[number] = old
		}
	}
	var changes []api.Change
	for _, number := range slices.Sorted(maps.Keys(running)) {
		if number < 1 || number > count {
			r.Removed = append(r.Removed, running[number].Name)
			changes = append(changes, api.Change{Name: running[number].Name, Delete: true})
		}
	}
	for number := 1; number <= count; number++ {
		if old, ok := running[number]; !ok || old.Wish != store.Launched {
			r.Changed = append(r.Changed, n.InstanceOf(strconv.Itoa(number)))
		}
	}
	if len(r.Changed) > 0 {
		text, err := c.scaledText(ctx, a, u, running, build)
		if err != nil {
			return r, err
		}
		for _, name := range r.Changed {
			changes = append(changes, api.Change{Name: name, Text: text, Wish: store.Launched, Replace: true})
		}
	}
	if len(changes) == 0 {
		return r, nil
	}
	if _, err := c.Client.Apply(ctx, changes); err != nil {
		return r, err
	}
	if len(r.Changed) == 0 {
		return r, nil
	}
	task := c.Log.Start("%s: %d to be ready", u.Name, len(r.Changed))
	return r, task.Done(c.Await(ctx, r.Changed, u.Timeout))
}

// scaledText is what new instances are made of.
func (c Cluster) scaledText(ctx context.Context, a *App, u Unit, running map[int]api.Unit, build func() ([]Built, error)) (string, error) {
	for _, number := range slices.Sorted(maps.Keys(running)) {
		return running[number].Text, nil
	}
	builds, err := build()
	if err != nil {
		return "", err
	}
	if err := c.push(ctx, a, builds, true); err != nil {
		return "", err
	}
	return a.text(u, references(a, builds)), nil
}

func templates(a *App) string {
	var names []string
	for _, u := range a.Units {
		if n, err := unit.ParseName(u.Name); err == nil && n.Template {
			names = append(names, u.Name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return fmt.Sprint(names)
}
