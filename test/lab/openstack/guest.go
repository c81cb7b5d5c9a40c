package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"plasmid/image"
	"plasmid/internal/progress"
)

// guestScript makes a file system image for a container of Nova's from the
// tree of a node image: what it changes is in an overlay, so the tree stays
// as it is and nothing gets copied twice.
//
//   - The host's kernel runs it, so boot loader, kernel and modules stay out.
//   - Where control groups are those of version 1, systemd in the guest gets a
//     hierarchy of version 2 for itself before it starts.
//   - Docker makes the device nodes that are in images. Which may be opened
//     stays libvirt's list.
//   - It also sets up the networks of its containers, by /proc/sys/net: the rest of
//     /proc/sys, which is the host's, stays read-only.
//   - The config drive is a directory (see controller.go), and cloud-init would
//     wait for other sources' networks.
//   - A login on the console hangs it up, and what was written to it just
//     before, such as the host key, is lost with a pseudo terminal.
//   - netplan's and cloud-init's network files match by the permanent address
//     of a link, which a veth hasn't.
const guestScript = `
mount --make-rprivate /
mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/root"
cd "$WORK/root"
rm -rf boot/* usr/lib/modules/* vmlinuz* initrd.img*
: >etc/fstab
rm -f usr/sbin/init
cat >usr/sbin/init <<'END'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
devices=$(sed -n 's/^[0-9]*:devices://p' /proc/self/cgroup)
if [ -n "$devices" ]; then
	mount -t cgroup -o devices none /mnt
	echo 'c *:* m' >"/mnt$devices/devices.allow"
	umount /mnt
fi
mount -t proc proc /mnt
mount --bind /mnt/sys/net /proc/sys/net
umount /mnt
if grep -qv ^0:: /proc/self/cgroup; then
	umount -l -R /sys/fs/cgroup
	mount -t cgroup2 none /mnt
	mkdir -p "/mnt/$LIBVIRT_LXC_NAME"
	echo 1 >"/mnt/$LIBVIRT_LXC_NAME/cgroup.procs"
	umount /mnt
	exec unshare -C sh -c 'mount -t cgroup2 none /sys/fs/cgroup; exec /usr/lib/systemd/systemd'
fi
exec /usr/lib/systemd/systemd
END
chmod 755 usr/sbin/init
cat >etc/cloud/cloud.cfg.d/95-lab.cfg <<'END'
datasource_list: [ConfigDrive, None]
network: {config: disabled}
END
cat >etc/systemd/network/80-eth.network <<'END'
[Match]
Name=eth*
[Network]
DHCP=ipv4
[DHCPv4]
UseMTU=yes
END
for unit in systemd-udevd.service dev-hugepages.mount systemd-networkd-wait-online.service console-getty.service; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
truncate -s 1500M "$OUT"
mke2fs -q -t ext4 -L plasmid-root -O ^has_journal -d . "$OUT"
`

// guestImage puts an image for the tier lxc, made from the tree of a node
// image, into a lab that is up. It takes the place of others of its name: two
// of a name are of no use to anybody. content says what is in the tree; if the
// lab has it, nothing is done. Empty: unknown.
func (s site) guestImage(ctx context.Context, log *progress.Log, tree, content, name string) error {
	pid := s.process1()
	if pid == 0 {
		return errNotUp
	}
	if info, err := os.Stat(filepath.Join(tree, "usr/lib/systemd/systemd")); err != nil || info.IsDir() {
		return fmt.Errorf("%s is not the tree of a node image (there is no systemd in it)", tree)
	}
	list := []string{"image", "list", "--name=" + name, "--format=value", "--column=ID"}
	old, err := s.client(ctx, pid, nil, list...)
	if err != nil {
		return err
	}
	keep := ""
	made := short(guestScript, content)
	if content != "" && len(old) > 0 {
		same, err := s.client(ctx, pid, nil, append(list, "--status=active", "--property=plasmid_guest="+made)...)
		if err != nil {
			return err
		}
		if len(same) > 0 {
			keep = same[0]
			log.Printf("%s is in the lab already", name)
		}
	}
	if keep == "" {
		if err := s.uploadGuest(ctx, log, pid, tree, made, name); err != nil {
			return err
		}
	}
	for _, id := range old {
		if id != keep {
			if _, err := s.client(ctx, pid, nil, "image", "delete", id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s site) uploadGuest(ctx context.Context, log *progress.Log, pid int, tree, made, name string) error {
	work, err := os.MkdirTemp(s.home(), "guest")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	raw := filepath.Join(work, "guest.raw")
	t := log.Start("container image from %s", tree)
	c := exec.CommandContext(ctx, "sh", "-ec", guestScript)
	c.Env = append(os.Environ(), "TREE="+tree, "WORK="+work, "OUT="+raw)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err = said(c.CombinedOutput())
	t.Done(err)
	if err != nil {
		return err
	}
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	return s.upload(ctx, log, pid, in, name, "--disk-format=raw", "--property=plasmid_guest="+made)
}

// upload puts an image into the lab, for everybody.
func (s site) upload(ctx context.Context, log *progress.Log, pid int, in io.Reader, name string, options ...string) error {
	t := log.Start("uploading it as %s", name)
	_, err := s.client(ctx, pid, in, append([]string{"image", "create", "--container-format=bare", "--public", name}, options...)...)
	t.Done(err)
	return err
}

// client runs OpenStack's own client as the lab's administrator, and returns
// the words that it says.
func (s site) client(ctx context.Context, pid int, in io.Reader, args ...string) ([]string, error) {
	c := exec.CommandContext(ctx, "nsenter", append(append(insideArgs(pid), "openstack"), args...)...)
	c.Env = append(insideEnvironment(), "OS_CLOUD=lab-admin")
	c.Stdin = in
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	return strings.Fields(string(out)), said(errs.Bytes(), err)
}

// said puts what a program said into its error.
func said(out []byte, err error) error {
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

func imageCommand(o *options) *cobra.Command {
	var tree, name, state string
	c := &cobra.Command{
		Use:   "image",
		Short: "put a node image into a lab of tier lxc",
		Long: `Makes an image for containers from the tree of a node image (the newest that
"plasmid image build" has made, if none is named) and puts it into the lab, in
place of what is there by its name. If that is the same, it does nothing.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.site()
			if err != nil {
				return err
			}
			content := ""
			if tree == "" {
				latest, err := image.Latest(state)
				if err != nil {
					return errors.Join(err, errors.New("make one with: plasmid image build --tree-only"))
				}
				// What has an identity does not change.
				tree, content = latest.Tree(), latest.ID
			}
			return s.guestImage(c.Context(), newLog(), tree, content, name)
		},
	}
	c.Flags().StringVar(&tree, "tree", "", "the tree of a node image (default: the newest in --state)")
	c.Flags().StringVar(&state, "state", "/var/lib/plasmid", "Plasmid's state directory")
	c.Flags().StringVar(&name, "as", "plasmid-lxc", "name of the image in the lab")
	return c
}
