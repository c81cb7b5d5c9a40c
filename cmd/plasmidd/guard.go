package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/daemon"

	"plasmid/runtime/container"
	"plasmid/runtime/discovery"
	"plasmid/runtime/guard"
	"plasmid/runtime/node"
	"plasmid/runtime/systemd"
	"plasmid/runtime/unit"
)

// guardUnit runs plasmidd guard.
const guardUnit = "plasmid-guard.service"

// startGuard has the guard run; that it does already is no error.
func startGuard(ctx context.Context, sysd *systemd.Manager) error {
	wait, err := sysd.Start(ctx, guardUnit)
	if err != nil {
		return err
	}
	result, err := wait(ctx)
	if err == nil && result != "done" {
		err = fmt.Errorf("%s did not start (%s); see: journalctl -u %s", guardUnit, result, guardUnit)
	}
	return err
}

// runGuard is the process that stops singletons when plasmidd does not.
func runGuard(ctx context.Context, log *slog.Logger) error {
	docker, err := container.New()
	if err != nil {
		return err
	}
	defer docker.Close()
	s := &singletons{ctx: ctx, docker: docker}
	g := &guard.Guard{Dir: node.RunDir, Boottime: guard.Boottime, Units: s.list, Logger: log}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("telling systemd that the guard is ready", "err", err)
	}
	g.Run(ctx)
	return nil
}

// singletons are those that are installed. systemd is connected to when they are
// asked for first: most machines never have to stop one.
type singletons struct {
	ctx    context.Context
	docker *container.Docker
	sysd   *systemd.Manager
}

func (s *singletons) list() ([]guard.Unit, error) {
	if s.sysd == nil {
		sysd, err := systemd.New(s.ctx, filepath.Join(node.RunDir, "units"))
		if err != nil {
			return nil, err
		}
		s.sysd = sysd
	}
	texts, err := s.sysd.Installed()
	if err != nil {
		return nil, err
	}
	var out []guard.Unit
	var errs []error
	for name, text := range texts {
		spec, err := unit.SpecOf(name, text)
		switch {
		case err != nil:
			errs = append(errs, err)
		case spec.Singleton:
			out = append(out, &singleton{s, name, discovery.ContainerOf(spec)})
		}
	}
	return out, errors.Join(errs...)
}

// singleton is one of them, with its container if it has one: that is Docker's
// child and not the unit's.
type singleton struct {
	of        *singletons
	name      string
	container string
}

func (u *singleton) Name() string { return u.name }

func (u *singleton) Runs(ctx context.Context) (bool, error) {
	s, err := u.of.sysd.State(ctx, u.name)
	if err != nil || s.Up() || s.Active == "deactivating" || u.container == "" {
		return true, err
	}
	c, err := u.of.docker.Inspect(ctx, u.container)
	if err != nil {
		return container.Runs(u.container)
	}
	return c.Running, nil
}

func (u *singleton) Stop(ctx context.Context) error {
	_, err := u.of.sysd.Stop(ctx, u.name)
	return err
}

// Kill has it stopped too, or its Restart= would start it again.
func (u *singleton) Kill(ctx context.Context) error {
	errs := []error{u.Stop(ctx), u.of.sysd.Kill(ctx, u.name)}
	if u.container != "" {
		errs = append(errs, container.Kill(u.container))
	}
	return errors.Join(errs...)
}
