package template

import (
	"context"
	"fmt"
	"os"
	"text/template"
)

// Parse reports what is wrong with the resource's template, without keys.
func (r *Resource) Parse() error {
	text, err := os.ReadFile(r.Src)
	if err != nil {
		return err
	}
	_, err = template.New(r.Src).Funcs(functions(nil, false)).Parse(string(text))
	return err
}

// Try renders the resource from a store's keys and, with check, runs its
// check_cmd on what comes out, which is in a temporary file. Nothing else is
// touched.
func (r *Resource) Try(ctx context.Context, s Store, check bool, o Options) ([]byte, error) {
	stored, _, err := s.Get(ctx, r.storeKeys())
	if err != nil {
		return nil, err
	}
	content, err := r.render(r.relative(stored))
	if err != nil || !check {
		return content, err
	}
	f, err := os.CreateTemp("", "confd-validate-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("staging %s: %w", r.Dest, err)
	}
	return content, r.run(ctx, "check_cmd", r.CheckCmd, f.Name(), r.CheckTimeout, o)
}
