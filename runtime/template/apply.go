package template

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"text/template"
	"time"
)

// Options of applying resources.
type Options struct {
	Noop          bool // say what would change, change nothing
	SyncOnly      bool // put the file in place, without check and reload
	KeepStageFile bool // leave the staged file beside the destination
	Logger        *slog.Logger
}

// apply brings the resource's file up to the keys. It reports whether it
// changed the file, or would have with Noop.
func (r *Resource) apply(ctx context.Context, k Keys, o Options) (changed bool, err error) {
	if len(k) == 0 {
		switch r.OnEmpty {
		case "keep":
			return false, nil
		case "remove":
			return r.remove(ctx, o)
		}
	}
	content, err := r.render(k)
	if err != nil {
		return false, err
	}
	old, err := readPrevious(r.Dest)
	if err != nil {
		return false, err
	}
	mode := r.Mode
	if mode == 0 {
		if mode = 0o644; old != nil {
			mode = old.mode
		}
	}
	if old.matches(content, mode, r.UID, r.GID) {
		return false, nil
	}
	if o.Noop {
		o.Logger.Warn("would change", "file", r.Dest)
		return true, nil
	}
	staged, err := r.stage(content, mode)
	if err != nil {
		return false, err
	}
	if !o.KeepStageFile {
		defer os.Remove(staged)
	}
	if !o.SyncOnly {
		if err := r.run(ctx, "check_cmd", r.CheckCmd, staged, r.CheckTimeout); err != nil {
			return false, fmt.Errorf("%w; %s stays as it was", err, r.Dest)
		}
	}
	if err := replace(staged, r.Dest, o.KeepStageFile); err != nil {
		return false, err
	}
	if !o.SyncOnly {
		if err := r.run(ctx, "reload_cmd", r.ReloadCmd, r.Dest, r.ReloadTimeout); err != nil {
			// What is in place must be what runs; and a file that differs
			// from the rendered one makes the next pass try again.
			if rerr := old.restore(r.Dest); rerr != nil {
				return true, errors.Join(err, rerr)
			}
			return false, fmt.Errorf("%w; the last good %s is back", err, r.Dest)
		}
	}
	o.Logger.Info("changed", "file", r.Dest)
	return true, nil
}

func (r *Resource) remove(ctx context.Context, o Options) (bool, error) {
	if _, err := os.Lstat(r.Dest); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if o.Noop {
		o.Logger.Warn("would remove", "file", r.Dest)
		return true, nil
	}
	if err := os.Remove(r.Dest); err != nil {
		return false, err
	}
	if o.SyncOnly {
		return true, nil
	}
	return true, r.run(ctx, "reload_cmd", r.ReloadCmd, r.Dest, r.ReloadTimeout)
}

// stage writes the content beside the destination, which is created with its
// directories if need be.
func (r *Resource) stage(content []byte, mode os.FileMode) (string, error) {
	dir := filepath.Dir(r.Dest)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(r.Dest)+".*")
	if err != nil {
		return "", err
	}
	defer f.Close()
	err = errors.Join(f.Chmod(mode), chown(f, r.UID, r.GID))
	if err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func chown(f *os.File, uid, gid int) error {
	if uid < 0 && gid < 0 {
		return nil
	}
	return f.Chown(uid, gid)
}

// replace puts the staged file in place. A destination that is a mount point
// of its own, as files in containers may be, is written in place.
func replace(staged, dest string, keep bool) error {
	if !keep {
		err := os.Rename(staged, dest)
		if !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.EXDEV) {
			return err
		}
	}
	content, err := os.ReadFile(staged)
	if err != nil {
		return err
	}
	info, err := os.Stat(staged)
	if err != nil {
		return err
	}
	return writeInPlace(dest, content, info.Mode().Perm())
}

func writeInPlace(dest string, content []byte, mode os.FileMode) error {
	if err := os.WriteFile(dest, content, mode); err != nil {
		return err
	}
	return os.Chmod(dest, mode)
}

// previous is the file that stood at the destination.
type previous struct {
	content  []byte
	mode     os.FileMode
	uid, gid int
}

// readPrevious returns nil when there is no file.
func readPrevious(name string) (*previous, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	p := &previous{content: content, mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		p.uid, p.gid = int(st.Uid), int(st.Gid)
	}
	return p, nil
}

func (p *previous) matches(content []byte, mode os.FileMode, uid, gid int) bool {
	return p != nil && bytes.Equal(p.content, content) && p.mode == mode &&
		(uid < 0 || uid == p.uid) && (gid < 0 || gid == p.gid)
}

// restore puts the file back as it was, or takes it away if there was none.
func (p *previous) restore(name string) error {
	if p == nil {
		return os.Remove(name)
	}
	if err := writeInPlace(name, p.content, p.mode); err != nil {
		return err
	}
	return os.Chown(name, p.uid, p.gid)
}

// run executes one of the resource's commands, its {{.src}} and {{.dest}}
// replaced by file, and ends it with all its children at the deadline.
func (r *Resource) run(ctx context.Context, what, command, file string, timeout time.Duration) error {
	if command == "" {
		return nil
	}
	t, err := template.New(what).Parse(command)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var line bytes.Buffer
	if err := t.Execute(&line, map[string]string{"src": file, "dest": file}); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("%s %q did not end within %v", what, line.String(), timeout)
	}
	if err != nil {
		return fmt.Errorf("%s %q: %w: %s", what, line.String(), err, bytes.TrimSpace(out))
	}
	return nil
}
