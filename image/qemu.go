package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"plasmid/internal/progress"
)

// Where Debian's package ovmf puts the UEFI firmware.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// machine is a virtual machine under QEMU.
type machine struct {
	started time.Time
	ssh     string // address on this host's loopback
	cmd     *exec.Cmd
	console *console
	done    chan struct{} // closed when QEMU has ended
	err     error         // why, after done
}

// startMachine powers a machine on, with what it writes in dir and a disk of
// gib GiB that begins as a copy of base. drive are the files of its config
// drive, which says that its NIC is bootMAC. It ends with ctx.
func startMachine(ctx context.Context, t *progress.Task, base string, gib int, drive map[string][]byte, firmware, accel, dir string) (*machine, error) {
	disk := ownDisk(dir)
	if err := run(ctx, t, nil, "", "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk, fmt.Sprintf("%dG", gib)); err != nil {
		return nil, err
	}
	seed := filepath.Join(dir, "config.img")
	if err := writeConfigDrive(ctx, t, seed, dir, drive); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := []string{
		"-machine", "q35", "-accel", accelOption(accel), "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(bootMemory),
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
		"-drive", "file=" + disk + ",if=virtio,cache=unsafe",
		"-drive", "file=" + seed + ",if=virtio,format=raw,readonly=on",
		"-device", "virtio-rng-pci",
		"-netdev", "user,id=n,hostfwd=tcp:127.0.0.1:" + strconv.Itoa(port) + "-" + bootAddress + ":22",
		"-device", "virtio-net-pci,netdev=n,mac=" + bootMAC,
	}
	if firmware == UEFI {
		vars, err := os.ReadFile(ovmfVars)
		if err != nil {
			return nil, fmt.Errorf("%w; the package ovmf has it, run: make deps", err)
		}
		own := filepath.Join(dir, "efivars.fd")
		if err := os.WriteFile(own, vars, 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode, "-drive", "if=pflash,format=raw,file="+own)
	}
	m := &machine{ssh: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), console: newConsole(), done: make(chan struct{})}
	m.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaints bytes.Buffer
	m.cmd.Stdout, m.cmd.Stderr = m.console, &complaints
	m.started = time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		err := m.cmd.Wait()
		if err == nil {
			err = errors.New("powered off")
		}
		m.err = fmt.Errorf("the machine ended: %w %s", err, strings.TrimSpace(complaints.String()))
		close(m.done)
	}()
	return m, nil
}

// ownDisk is what a machine has written of its disk.
func ownDisk(dir string) string { return filepath.Join(dir, "disk.qcow2") }

// accelOption bounds TCG's cache of translated code, which else is 1 GiB.
func accelOption(accel string) string {
	if accel == "tcg" {
		return "tcg,thread=multi,tb-size=256"
	}
	return accel
}

// freePort is a port of loopback that nobody listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// writeConfigDrive makes a config drive in its FAT form.
func writeConfigDrive(ctx context.Context, t *progress.Task, drive, dir string, files map[string][]byte) error {
	root := filepath.Join(dir, "drive")
	for name, data := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(drive, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(drive, 4<<20); err != nil {
		return err
	}
	if err := run(ctx, t, nil, "", "mkfs.vfat", "-n", "config-2", drive); err != nil {
		return err
	}
	return run(ctx, t, nil, "", "mcopy", "-s", "-i", drive, filepath.Join(root, "openstack"), "::/")
}

func (m *machine) end() {
	_ = m.cmd.Process.Kill()
	<-m.done
}

// hostKey waits until cloud-init has written the SSH host key to the console,
// where only the owner of the machine reads it.
func (m *machine) hostKey(ctx context.Context) (ssh.PublicKey, error) {
	for {
		key, more := m.console.hostKey()
		if key != nil {
			return key, nil
		}
		select {
		case <-ctx.Done():
			return nil, m.explain(fmt.Errorf("no SSH host key on the console: %w", ctx.Err()))
		case <-m.done:
			return nil, m.explain(m.err)
		case <-more:
		}
	}
}

// explain adds the console's last words to an error.
func (m *machine) explain(err error) error {
	return fmt.Errorf("%w; the console's last words:\n%s", err, m.console.last())
}

// console collects what a machine writes to its serial port.
type console struct {
	mu    sync.Mutex
	lines tail
	part  []byte
	key   ssh.PublicKey
	keys  bool // between the markers
	more  chan struct{}
}

func newConsole() *console { return &console{more: make(chan struct{})} }

// Write never fails.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part = append(c.part, p...)
	for {
		line, rest, whole := bytes.Cut(c.part, []byte("\n"))
		if !whole {
			break
		}
		c.line(strings.TrimRight(string(line), "\r "))
		c.part = rest
	}
	close(c.more)
	c.more = make(chan struct{})
	return len(p), nil
}

// line takes one line. The markers are cloud-init's, from its module
// keys_to_console.
func (c *console) line(l string) {
	if l == "" {
		return
	}
	c.lines.add(l)
	switch {
	case strings.Contains(l, "-----BEGIN SSH HOST KEY KEYS-----"):
		c.keys = true
	case strings.Contains(l, "-----END SSH HOST KEY KEYS-----"):
		c.keys = false
	case c.keys:
		if i := strings.Index(l, "ssh-ed25519 "); i >= 0 {
			if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l[i:])); err == nil {
				c.key = key
			}
		}
	}
}

// hostKey returns the key, if it was written, and a channel that is closed
// when more was.
func (c *console) hostKey() (ssh.PublicKey, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key, c.more
}

func (c *console) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines.String()
}
