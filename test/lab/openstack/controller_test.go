package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// domain is as much of a container's definition as the script looks at.
const domain = `<domstatus>
  <domain type='lxc'>
    <devices>
      <filesystem type='mount' accessmode='passthrough'>
        <source dir='%[3]s'/>
        <target dir='/'/>
      </filesystem>
      <console type='pty' tty='%[1]s'>
        <source path='%[1]s'/>
        <log file='%[2]s' append='off'/>
        <target type='lxc' port='0'/>
      </console>
    </devices>
  </domain>
</domstatus>
`

// A container's definition gets the right to make device nodes, the controller
// its arguments, its root what is on the config drive, and all that is said on
// the console is in Nova's file, whether somebody asks for it or not.
func TestControllerScript(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it mounts something over a terminal: run as root")
	}
	dir := t.TempDir()
	host, terminal := openTerminal(t)
	definition, log := filepath.Join(dir, "instance-1.xml"), filepath.Join(dir, "console.log")
	root := filepath.Join(dir, "rootfs")
	write(t, definition, fmt.Sprintf(domain, terminal, log, root))
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	// In the place of genisoimage's program, which is in the lab's tree only.
	write(t, filepath.Join(dir, "disk.config"), "/openstack/latest/meta_data.json")
	write(t, filepath.Join(dir, "isoinfo"), "#!/bin/sh\n[ \"$1 $2 $4\" = '-R -i -x' ] || exit 1\n[ \"$(cat $3)\" != \"$5\" ] || echo '{}'\n")
	if err := os.Chmod(filepath.Join(dir, "isoinfo"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, log, "of an earlier boot\n")
	// The mount is seen here only; what Nova does to see the console is done at
	// the end, where the container has the other end of the terminal still open.
	script := "mount --make-rprivate /\n" + strings.NewReplacer("/run/libvirt/lxc", dir, "exec "+controller+".real", "echo").Replace(controllerScript) +
		"\ndd if=" + terminal + " iflag=nonblock status=none\n"
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-c", script, "libvirt_lxc", "--name", "instance-1", "--console", "3")
	c.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	c.ExtraFiles = []*os.File{host}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Setpgid: true}
	if out, err := c.CombinedOutput(); err != nil || string(out) != "--name instance-1 --console 3\n" {
		t.Errorf("%v: %s", err, out)
	}
	seed := filepath.Join(root, "var/lib/cloud/seed/config_drive/openstack/latest")
	if got := read(t, filepath.Join(seed, "meta_data.json")); got != "{}\n" {
		t.Errorf("on the config drive: %q", got)
	}
	if _, err := os.Stat(filepath.Join(seed, "user_data")); err == nil {
		t.Error("there is a file that is not on the config drive")
	}
	text := read(t, definition)
	if want := "<domain type='lxc'>\n    <features><capabilities policy='default'><mknod state='on'/></capabilities></features><devices>\n      <filesystem type"; !strings.Contains(text, want) {
		t.Errorf("%s", text)
	}
	// More than a terminal holds while nobody reads it.
	said := bytes.Repeat([]byte("…ünïcode\n"), 20000)
	if err := host.SetWriteDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := host.Write(said); err != nil {
		t.Fatalf("the container waits after %d bytes: %v", n, err)
	}
	want := "of an earlier boot\n" + string(said)
	until(t, "all is in the file", func() bool { return read(t, log) == want })
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the reader ends with the container", func() bool { return syscall.Kill(-c.Process.Pid, 0) == syscall.ESRCH })
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// openTerminal is a terminal as libvirt makes one: its own end, and the name of
// the other.
func openTerminal(t *testing.T) (*os.File, string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	other, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	raw, err := unix.IoctlGetTermios(other, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	raw.Iflag, raw.Oflag, raw.Lflag = 0, 0, 0
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(other, unix.TCSETS, raw); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), name
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
