package image

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"plasmid/internal/progress"
)

// inTree mounts what programs in the tree need, in the mount namespace that it
// is run in, and then runs its arguments.
const inTree = `
set -e
tree=$1; shift
mount --make-rprivate /
mount -t proc proc "$tree/proc"
mount -t sysfs -o ro sysfs "$tree/sys"
mount --rbind /dev "$tree/dev"
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
mkdir -p "$tree/run/systemd/resolve" "$tree/run/lock"
cp /etc/resolv.conf "$tree/run/systemd/resolve/stub-resolv.conf"
exec "$@"
`

// denyServices keeps packages from starting their services in the tree.
const denyServices = "#!/bin/sh\nexit 101\n"

// ansible runs the playbooks against the tree, by way of chroot.
func (b *build) ansible(ctx context.Context, t *progress.Task, tree string) error {
	if err := os.WriteFile(filepath.Join(tree, "usr/sbin/policy-rc.d"), []byte(denyServices), 0o755); err != nil {
		return err
	}
	return b.play(ctx, t, b.playbooks, target{
		before: []string{"sh", "-c", inTree, "sh", tree}, ownMounts: true,
		args: []string{"-i", tree + ",", "-c", "community.general.chroot"},
	})
}

// target is what playbooks are run against.
type target struct {
	before    []string // what runs ansible-playbook, if it is not run itself
	ownMounts bool
	args      []string // of ansible-playbook, beside those of every run
	env       []string
	vars      map[string]any
}

// play runs playbooks, with the image's variables.
func (b *build) play(ctx context.Context, t *progress.Task, playbooks []string, on target) error {
	vars := maps.Clone(b.Config.Vars)
	if vars == nil {
		vars = map[string]any{}
	}
	binaries, err := filepath.Abs(b.Binaries)
	if err != nil {
		return err
	}
	vars["plasmid_image_build"] = true
	vars["plasmid_binaries"] = binaries
	vars["ansible_python_interpreter"] = "/usr/bin/python3"
	maps.Copy(vars, on.vars)
	varsFile := filepath.Join(b.dir, "vars.json")
	data, err := json.Marshal(vars)
	if err != nil {
		return err
	}
	if err := os.WriteFile(varsFile, data, 0o600); err != nil {
		return err
	}
	defer os.Remove(varsFile)

	temp := filepath.Join(b.dir, "ansible")
	defer os.RemoveAll(temp)
	config, err := filepath.Abs(filepath.Join(b.Playbooks, "ansible.cfg"))
	if err != nil {
		return err
	}
	env := append([]string{
		"ANSIBLE_CONFIG=" + config,
		"ANSIBLE_LOCAL_TEMP=" + temp,
		"ANSIBLE_REMOTE_TEMP=/tmp/.ansible",
		"ANSIBLE_NOCOLOR=1",
		"ANSIBLE_HOME=" + temp,
	}, on.env...)
	command := append(slices.Clone(on.before), "ansible-playbook", "-e", "@"+varsFile)
	command = append(append(command, on.args...), playbooks...)

	var failed []string
	task := ""
	err = runIn(ctx, t, env, "", on.ownMounts, func(line string) {
		if m := taskLine.FindStringSubmatch(line); m != nil {
			task = m[1]
			t.Update("%s", task)
		}
		if strings.HasPrefix(line, "fatal: ") || strings.HasPrefix(line, "failed: ") || strings.HasPrefix(line, "ERROR! ") {
			failed = append(failed, line)
		}
	}, command[0], command[1:]...)
	if err != nil && ctx.Err() == nil && len(failed) > 0 {
		return fmt.Errorf("task %q failed:\n  %s\n%w", task, strings.Join(failed, "\n  "), err)
	}
	return err
}

var taskLine = regexp.MustCompile(`^TASK \[(.*)\] \*`)
