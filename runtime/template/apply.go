package template

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	// Diff, if any, is told what changes, or would with Noop. Contents of
	// files that not everybody may read are left out.
	Diff io.Writer
	// Metrics, if any, count what is done.
	Metrics *Metrics
	// Resync is how often Watch reads the keys though it was told of no
	// change; 0: never.
	Resync time.Duration
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
	if errors.Is(err, errMissing) && r.OnMissing == "keep" {
		o.Logger.Info("kept", "file", r.Dest, "why", err)
		return false, nil
	}
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
		return r.resume(ctx, o)
	}
	o.diff(r.Dest, old, content, mode)
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
		if err := r.run(ctx, "check_cmd", r.CheckCmd, staged, r.CheckTimeout, o); err != nil {
			return false, fmt.Errorf("%w; %s stays as it was", err, r.Dest)
		}
	}
	reloads := r.ReloadCmd != "" && !o.SyncOnly
	if reloads {
		if err := os.WriteFile(r.pending(), nil, 0o600); err != nil {
			return false, err
		}
		defer os.Remove(r.pending())
	}
	if err := replace(staged, r.Dest, o.KeepStageFile); err != nil {
		return false, err
	}
	if reloads {
		if err := r.run(ctx, "reload_cmd", r.ReloadCmd, r.Dest, r.ReloadTimeout, o); err != nil {
			// What is in place must be what runs; and a file that differs
			// from the rendered one makes the next pass try again.
			if rerr := r.restore(old); rerr != nil {
				return true, errors.Join(err, rerr)
			}
			return false, fmt.Errorf("%w; the last good %s is back", err, r.Dest)
		}
	}
	o.Logger.Info("changed", "file", r.Dest)
	return true, nil
}

// pending is a file that is there while the file in place has not been
// reloaded. If the process is killed in between, the next one sees it.
func (r *Resource) pending() string {
	return filepath.Join(filepath.Dir(r.Dest), "."+filepath.Base(r.Dest)+".reload")
}

// resume does the reload that a process before did not come to.
func (r *Resource) resume(ctx context.Context, o Options) (bool, error) {
	if _, err := os.Lstat(r.pending()); err != nil || o.Noop || o.SyncOnly {
		return false, nil
	}
	o.Logger.Info("reloading what an earlier process put in place", "file", r.Dest)
	if err := r.run(ctx, "reload_cmd", r.ReloadCmd, r.Dest, r.ReloadTimeout, o); err != nil {
		return false, err
	}
	return true, os.Remove(r.pending())
}

// remove takes the file away, and puts it back if the reload fails.
func (r *Resource) remove(ctx context.Context, o Options) (bool, error) {
	old, err := readPrevious(r.Dest)
	if err != nil || old == nil {
		return false, err
	}
	o.diff(r.Dest, old, nil, old.mode)
	if o.Noop {
		o.Logger.Warn("would remove", "file", r.Dest)
		return true, nil
	}
	if err := os.Remove(r.Dest); err != nil {
		return false, err
	}
	if !o.SyncOnly {
		if err := r.run(ctx, "reload_cmd", r.ReloadCmd, r.Dest, r.ReloadTimeout, o); err != nil {
			if rerr := r.restore(old); rerr != nil {
				return true, errors.Join(err, rerr)
			}
			return false, fmt.Errorf("%w; %s is back", err, r.Dest)
		}
	}
	o.Logger.Info("removed", "file", r.Dest)
	return true, nil
}

// stage writes the content beside the destination, which is created with its
// directories if need be.
func (r *Resource) stage(content []byte, mode os.FileMode) (string, error) {
	return r.stageAs(content, mode, r.UID, r.GID)
}

func (r *Resource) stageAs(content []byte, mode os.FileMode, uid, gid int) (string, error) {
	dir := filepath.Dir(r.Dest)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(r.Dest)+".*")
	if err != nil {
		return "", err
	}
	defer f.Close()
	err = errors.Join(f.Chmod(mode), chown(f, uid, gid))
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
func (r *Resource) restore(p *previous) error {
	if p == nil {
		return os.Remove(r.Dest)
	}
	staged, err := r.stageAs(p.content, p.mode, p.uid, p.gid)
	if err != nil {
		return err
	}
	defer os.Remove(staged)
	return replace(staged, r.Dest, false)
}

// commandLine fills in {{.src}} and {{.dest}}, the file that a command is about.
func commandLine(what, command, file string) (string, error) {
	t, err := template.New(what).Option("missingkey=error").Parse(command)
	if err != nil {
		return "", err
	}
	var line strings.Builder
	err = t.Execute(&line, map[string]string{"src": file, "dest": file})
	return line.String(), err
}

// run executes one of the resource's commands, its {{.src}} and {{.dest}}
// replaced by file, and ends it with all its children at the deadline.
func (r *Resource) run(ctx context.Context, what, command, file string, timeout time.Duration, o Options) (err error) {
	if command == "" {
		return nil
	}
	start := time.Now()
	defer func() { o.Metrics.command(r, what, time.Since(start), err) }()
	line, err := commandLine(what, command, file)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("%s %q did not end within %v", what, line, timeout)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		// It ended well; a daemon that it left behind holds its output open.
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s %q: %w: %s", what, line, err, bytes.TrimSpace(out))
	}
	o.Logger.Debug("ran", "what", what, "command", line, "took", time.Since(start), "output", string(bytes.TrimSpace(out)))
	return nil
}
