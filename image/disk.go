package image

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"plasmid/internal/progress"
)

// Layout of the disk, in sectors of 512 bytes: a partition for GRUB's core
// image (BIOS), the EFI system partition, and the root to the end.
const (
	sector     = 512
	biosStart  = 2048
	biosSize   = 2048
	espStart   = biosStart + biosSize
	espSize    = 64 << 11 // 64 MiB
	rootStart  = espStart + espSize
	gptReserve = 2048 // for the second partition table at the end

	// DefaultDiskGiB is the virtual size of the qcow2; the root grows to the
	// disk that it finds at first boot.
	DefaultDiskGiB = 4
)

const rootLabel, espLabel = "plasmid-root", "PLASMID-ESP"

// grubEarly is in GRUB's core image: it finds the root and reads on there.
const grubEarly = `search --no-floppy --label --set=root ` + rootLabel + `
set prefix=($root)/boot/grub
configfile ($root)/boot/grub/grub.cfg
`

const kernelArgs = "console=tty0 console=ttyS0,115200"

const grubConfig = `serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
menuentry 'Debian (Plasmid)' {
	search --no-floppy --label --set=root ` + rootLabel + `
	linux /boot/vmlinuz-%[1]s root=LABEL=` + rootLabel + ` ro ` + kernelArgs + `
	initrd /boot/initrd.img-%[1]s
}
`

// writeBootFiles puts GRUB's configuration into the tree.
func writeBootFiles(tree string) error {
	version, err := kernelVersion(tree)
	if err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(filepath.Join(tree, "boot/grub"), 0o755),
		os.MkdirAll(filepath.Join(tree, "boot/efi"), 0o755),
		os.WriteFile(filepath.Join(tree, "boot/grub/grub.cfg"), fmt.Appendf(nil, grubConfig, version), 0o644),
		// For update-grub, when a kernel is installed on a running machine.
		os.WriteFile(filepath.Join(tree, "etc/default/grub"), []byte("GRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX=\""+kernelArgs+"\"\nGRUB_TERMINAL=\"console serial\"\n"), 0o644),
	)
}

// disk makes the qcow2 of an image from its tree, without loop devices or
// mounts.
func (b *build) disk(ctx context.Context, img *Image) error {
	for _, tool := range []string{"mkfs.ext4", "mkfs.vfat", "mcopy", "sfdisk", "qemu-img"} {
		if err := installedTool(tool); err != nil {
			return err
		}
	}
	if err := b.free(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(imagesDir(b.State), ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	gib := b.Config.DiskGiB
	if gib == 0 {
		gib = DefaultDiskGiB
	}
	raw := filepath.Join(dir, "disk.raw")
	sectors := int64(gib) << 30 / sector

	if err := b.phase("file system", func(t *progress.Task) error {
		return b.layOut(ctx, t, img.Tree(), dir, raw, sectors)
	}); err != nil {
		return err
	}
	out := filepath.Join(dir, "disk.qcow2")
	if err := b.phase("qcow2", func(t *progress.Task) error {
		return run(ctx, t, nil, "", "qemu-img", "convert", "-c", "-m", "2", "-W", "-O", "qcow2", "-o", "compression_type=zstd", raw, out)
	}); err != nil {
		return err
	}
	d := &Disk{VirtualGiB: gib}
	if d.SHA256, err = hashFile(out); err != nil {
		return err
	}
	info, err := os.Stat(out)
	if err != nil {
		return err
	}
	d.Bytes = info.Size()
	img.Manifest.Disk = d
	img.Manifest.Phases = append(img.Manifest.Phases, b.phases[max(0, len(b.phases)-2):]...)
	if err := os.Rename(out, img.Disk()); err != nil {
		return err
	}
	return writeJSON(filepath.Join(img.Dir, "manifest.json"), img.Manifest)
}

// layOut writes partitions, file systems and boot loaders into a sparse file.
func (b *build) layOut(ctx context.Context, t *progress.Task, tree, dir, raw string, sectors int64) error {
	f, err := os.Create(raw)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(sectors * sector); err != nil {
		return err
	}
	rootSize := sectors - rootStart - gptReserve
	table := fmt.Sprintf(`label: gpt
start=%d, size=%d, type=21686148-6449-6E6F-744E-656564454649, name=bios
start=%d, size=%d, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
start=%d, size=%d, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root, bootable
`, biosStart, biosSize, espStart, espSize, rootStart, rootSize)
	if err := run(ctx, t, nil, table, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw); err != nil {
		return err
	}
	t.Update("ext4")
	if err := run(ctx, t, nil, "", "mkfs.ext4", "-q", "-F", "-L", rootLabel, "-d", tree, "-m", "1",
		"-E", fmt.Sprintf("offset=%d,lazy_itable_init=1,lazy_journal_init=1", int64(rootStart)*sector), raw, fmt.Sprintf("%dk", rootSize/2)); err != nil {
		return err
	}
	t.Update("boot loaders")
	efi, err := grubImage(ctx, tree, "x86_64-efi", []string{"part_gpt", "ext2", "fat", "search", "search_label", "normal", "configfile", "linux", "echo", "test", "serial", "terminal", "gzio", "efi_gop", "all_video"})
	if err != nil {
		return err
	}
	if err := b.writeESP(ctx, t, dir, f, efi); err != nil {
		return err
	}
	core, err := grubImage(ctx, tree, "i386-pc", []string{"biosdisk", "part_gpt", "ext2", "search", "search_label", "normal", "configfile", "linux", "echo", "test", "serial", "terminal", "gzio"})
	if err != nil {
		return err
	}
	boot, err := os.ReadFile(filepath.Join(tree, "usr/lib/grub/i386-pc/boot.img"))
	if err != nil {
		return err
	}
	return errors.Join(writeBIOS(f, boot, core), f.Sync())
}

// writeESP makes the EFI system partition and copies it to its place.
func (b *build) writeESP(ctx context.Context, t *progress.Task, dir string, disk *os.File, efi []byte) error {
	esp, loader := filepath.Join(dir, "esp.img"), filepath.Join(dir, "BOOTX64.EFI")
	if err := os.WriteFile(loader, efi, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(esp, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(esp, espSize*sector); err != nil {
		return err
	}
	for _, c := range [][]string{
		{"mkfs.vfat", "-F", "32", "-n", espLabel, esp},
		{"mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", esp, loader, "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if err := run(ctx, t, nil, "", c[0], c[1:]...); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(esp)
	if err != nil {
		return err
	}
	_, err = disk.WriteAt(data, espStart*sector)
	return err
}

// grubImage has the tree's own GRUB make its core image.
func grubImage(ctx context.Context, tree, platform string, modules []string) ([]byte, error) {
	early := filepath.Join(tree, "tmp/early.cfg")
	if err := os.WriteFile(early, []byte(grubEarly), 0o644); err != nil {
		return nil, err
	}
	defer os.Remove(early)
	out := filepath.Join(tree, "tmp/grub.img")
	defer os.Remove(out)
	args := append([]string{tree, "grub-mkimage", "-O", platform, "-p", "/boot/grub", "-c", "/tmp/early.cfg", "-o", "/tmp/grub.img"}, modules...)
	if err := run(ctx, nil, nil, "", "chroot", args...); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// writeBIOS puts GRUB's boot sector before the partition table and its core
// image into the BIOS boot partition, and tells each where to find the next,
// as grub-bios-setup does. The offsets are those of GRUB's boot.S
// (GRUB_BOOT_MACHINE_KERNEL_SECTOR) and of the block list at the end of
// diskboot.S.
func writeBIOS(disk *os.File, boot, core []byte) error {
	const (
		kernelSector = 0x5c  // in boot.img: 8 bytes, the first sector of the core image
		driveCheck   = 0x66  // in boot.img: 2 bytes, jumped over when replaced by nops
		bootCode     = 440   // of the first sector; the rest is the partition table's
		blockList    = 0x1f4 // in the core image: 8 bytes start, 2 bytes length
	)
	if len(boot) != sector || len(core) < 2*sector {
		return fmt.Errorf("GRUB's boot.img has %d bytes and its core image %d: not what was expected", len(boot), len(core))
	}
	if len(core) > biosSize*sector {
		return fmt.Errorf("GRUB's core image has %d bytes, more than fit its partition", len(core))
	}
	binary.LittleEndian.PutUint64(boot[kernelSector:], biosStart)
	copy(boot[driveCheck:], []byte{0x90, 0x90})
	binary.LittleEndian.PutUint64(core[blockList:], biosStart+1)
	length := (len(core) - 1) / sector // sectors after the first, rounded up
	binary.LittleEndian.PutUint16(core[blockList+8:], uint16(length))
	if _, err := disk.WriteAt(boot[:bootCode], 0); err != nil {
		return err
	}
	_, err := disk.WriteAt(core, biosStart*sector)
	return err
}
