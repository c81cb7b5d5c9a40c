package image

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"plasmid/internal/progress"
	"plasmid/internal/remote"
	"plasmid/provision/configdrive"
)

// BootOptions of a test.
type BootOptions struct {
	Firmware []string // BIOS, UEFI; each boots a machine of its own
	Accel    string   // "kvm", "tcg", or empty for the best there is
	Timeout  time.Duration
	Log      *progress.Log
}

// The firmwares that an image must boot with.
const (
	BIOS = "bios"
	UEFI = "uefi"
)

// Boot is what one machine that was booted from an image showed.
type Boot struct {
	Firmware   string   `json:"firmware"`
	Accel      string   `json:"accel"`
	SSHSeconds float64  `json:"sshSeconds"` // from power-on to the first login
	UpSeconds  float64  `json:"upSeconds"`  // from power-on to the end of the boot
	UsedMiB    int      `json:"usedMiB"`    // memory in use when idle
	MachineID  string   `json:"machineID"`  // what it gave itself
	HostKey    string   `json:"hostKey"`    // SHA-256 fingerprint
	Problems   []string `json:"problems"`   // empty: all is well
}

// The machine of the test. QEMU's user-mode network is always this one.
const (
	bootAddress = "10.0.2.15"
	bootGateway = "10.0.2.2"
	bootMAC     = "52:54:00:70:6c:01"
	bootMemory  = 1024 // MiB
	// bootGrow is how much larger the disk is than the image, in GiB: the
	// root must find and fill it.
	bootGrow = 2
)

// TestBoot boots the image's qcow2 under QEMU, once for each firmware, all at
// once, logs in and looks. The qcow2 itself is not changed. The error is for
// what kept the test from looking; what it saw is in the Boots' Problems.
func TestBoot(ctx context.Context, img *Image, o BootOptions) ([]Boot, error) {
	if img.InCloud() {
		return nil, fmt.Errorf("image %s is in a cloud; this boots images that were built here", img.ID)
	}
	if !img.HasDisk() {
		return nil, fmt.Errorf("image %s has no qcow2; make it with: plasmid image build", img.ID)
	}
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", "mkfs.vfat", "mcopy"} {
		if err := installedTool(tool); err != nil {
			return nil, err
		}
	}
	if o.Accel == "" {
		o.Accel = bestAccel()
	}
	dir, err := os.MkdirTemp("", "plasmid-boot-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	boots := make([]Boot, len(o.Firmware))
	errs := make(chan error, len(boots))
	for i, firmware := range o.Firmware {
		go func() {
			own := filepath.Join(dir, firmware)
			t := o.Log.Start("boot %s (%s)", firmware, o.Accel)
			var err error
			boots[i], err = boot(ctx, t, img, firmware, o.Accel, own)
			if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				err = fmt.Errorf("not done within %s: %w", o.Timeout, err)
			}
			if err = t.Done(err); err != nil {
				err = fmt.Errorf("boot with %s: %w", firmware, err)
			}
			errs <- err
		}()
	}
	for range boots {
		if e := <-errs; e != nil {
			err = errors.Join(err, e)
			cancel() // the others' results are of no use
		}
	}
	if err != nil {
		return nil, err
	}
	compare(boots)
	return boots, nil
}

// bestAccel is "kvm" where this user can have it.
func bestAccel() string {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg"
	}
	f.Close()
	return "kvm"
}

// compare adds to the boots' problems what no two machines may share.
func compare(boots []Boot) {
	for i := range boots {
		for _, other := range boots[:i] {
			if boots[i].MachineID == other.MachineID {
				boots[i].problem("has the machine-id of another boot, %s", other.MachineID)
			}
			if boots[i].HostKey == other.HostKey {
				boots[i].problem("has the SSH host key of another boot, %s", other.HostKey)
			}
		}
	}
}

func (b *Boot) problem(format string, args ...any) {
	b.Problems = append(b.Problems, fmt.Sprintf(format, args...))
}

// boot runs one machine, looks, and ends it.
func boot(ctx context.Context, t *progress.Task, img *Image, firmware, accel, dir string) (Boot, error) {
	b := Boot{Firmware: firmware, Accel: accel, Problems: []string{}}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return b, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return b, err
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return b, err
	}
	drive := configdrive.Machine{
		UUID: "00000000-0000-4000-8000-" + fmt.Sprintf("%x", []byte(firmware + "......")[:6]),
		Name: "boot-" + firmware, Cluster: "boot-test", MAC: bootMAC,
		Address: bootAddress, Netmask: "255.255.255.0", Gateway: bootGateway,
		SSHKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))},
	}
	m, err := startMachine(ctx, t, img.Disk(), img.Manifest.Disk.VirtualGiB+bootGrow, drive.Files(), firmware, accel, dir)
	if err != nil {
		return b, err
	}
	defer m.end()
	t.Update("waiting for the SSH host key on the console")
	hostKey, err := m.hostKey(ctx)
	if err != nil {
		return b, err
	}
	b.HostKey = ssh.FingerprintSHA256(hostKey)
	t.Update("waiting for SSH")
	conn, err := remote.Connect(ctx, remote.Target{Name: drive.Name, Address: m.ssh, User: "core", Key: key, HostKey: hostKey})
	if err != nil {
		return b, m.explain(err)
	}
	defer conn.Close()
	b.SSHSeconds = time.Since(m.started).Seconds()
	t.Update("logged in after %.0fs; waiting for the end of the boot", b.SSHSeconds)
	if err := look(ctx, &b, conn, m.started); err != nil {
		return b, m.explain(err)
	}
	return b, nil
}
