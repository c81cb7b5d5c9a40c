package image

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"plasmid/internal/progress"
	"plasmid/internal/remote"
)

// Cloud is where an image is built on a server. There is one server at a time:
// builds of one state directory keep each other out.
type Cloud interface {
	// Source finds the image that is begun with.
	Source(ctx context.Context) (Source, error)
	// Find reports whether there is an image of the identity.
	Find(ctx context.Context, identity string) (bool, error)
	// Boot makes a server of the source image and returns where it takes SSH,
	// with the host key that it has shown on its console. On it the user can
	// log in with the key, and become root by sudo.
	Boot(ctx context.Context, user, key string) (address string, host ssh.PublicKey, err error)
	// Snapshot waits until the server is off and makes an image of it, which
	// is found from then on by its identity. suite is Debian's name for what
	// is on it.
	Snapshot(ctx context.Context, identity, suite string) error
	// Clear removes everything of builds that is no image yet, if there is
	// anything.
	Clear(ctx context.Context) error
}

// buildUser logs in to the server that an image is built on. cloud-init makes
// it, and it is gone before the image is made.
const buildUser = "plasmid-build"

// cloudTemp begins the names of directories that a build needs for a while.
const cloudTemp = ".cloud-"

const (
	// serverBoot is how long a server may take from its host key to the end of
	// its boot: without KVM, minutes.
	serverBoot = 15 * time.Minute
	// finishTimeout is for looking at every file.
	finishTimeout = 10 * time.Minute
	// clearTimeout is for removing the server, whatever became of the build.
	clearTimeout = 10 * time.Minute
)

// prepare is the playbook that runs before all others on a server: what
// mmdebstrap does for a tree.
//
//go:embed prepare.yml
var prepare []byte

// finish is the last that runs on the server, as root. The user, and so the way
// back in, goes first. What anybody may write to is looked for in the root file
// system alone, not in what is mounted on it. Services are not stopped in the
// usual way: some would write again what was just removed.
//
//go:embed finish.sh
var finish []byte

// BuildInCloud makes the image of the options on a server in a cloud, or finds
// that it is there already. built says which. Of a build that fails or is
// cancelled nothing stays; of one that was killed the next one removes it.
func BuildInCloud(ctx context.Context, o Options, c Cloud) (img *Image, built bool, err error) {
	b := &build{Options: o}
	if err := b.inputs("ansible-playbook", "ssh"); err != nil {
		return nil, false, err
	}
	// Builds here may go on meanwhile.
	unlock, err := b.lock(".lock-cloud", cloudTemp+"*")
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	if err := c.Clear(ctx); err != nil {
		return nil, false, fmt.Errorf("removing what an earlier build left: %w", err)
	}
	source, err := c.Source(ctx)
	if err != nil {
		return nil, false, err
	}
	id, err := cloudIdentity(source, b.Config, b.playbooks, b.Binaries)
	if err != nil {
		return nil, false, err
	}
	there, err := c.Find(ctx, id)
	if err != nil {
		return nil, false, err
	}
	img, err = ByID(b.State, id)
	if there && err == nil {
		return img, false, markLatest(b.State, id, b.link())
	}
	if err == nil { // it was pruned in the cloud
		if err := os.RemoveAll(img.Dir); err != nil {
			return nil, false, err
		}
	}
	if b.dir, err = os.MkdirTemp(imagesDir(b.State), cloudTemp); err != nil {
		return nil, false, err
	}
	defer os.RemoveAll(b.dir)
	m := Manifest{ID: id, Format: format, Created: time.Now().UTC().Truncate(time.Second),
		Inputs: Inputs{Playbooks: b.playbooks, Vars: b.Config.Vars, Source: &source}}
	if !there { // else somebody else built it, and its packages are not known here
		if err := b.onServer(ctx, c, &m); err != nil {
			return nil, false, err
		}
	}
	dir, err := os.MkdirTemp(imagesDir(b.State), cloudTemp)
	if err != nil {
		return nil, false, err
	}
	defer os.RemoveAll(dir)
	if img, err = b.put(dir, m); err != nil {
		return nil, false, err
	}
	return img, !there, markLatest(b.State, id, b.link())
}

// onServer builds on a server, and fills in what the manifest says of it.
func (b *build) onServer(ctx context.Context, c Cloud, m *Manifest) (err error) {
	key, line, err := b.newKey()
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
		defer cancel()
		if e := c.Clear(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("the server of the build is left: %w; the next plasmid image build removes it", e))
		}
	}()
	address, host, err := c.Boot(ctx, buildUser, line)
	if err != nil {
		return err
	}
	var conn *remote.Conn
	if err := b.phase("boot", func(t *progress.Task) (err error) {
		conn, err = b.logIn(ctx, t, remote.Target{Name: "of the build", Address: address, User: buildUser, Key: key, HostKey: host})
		return err
	}); err != nil {
		return err
	}
	defer conn.Close()
	if m.Suite, err = debianSuite(ctx, conn); err != nil {
		return err
	}
	on, done, err := b.overSSH(address, host)
	if err != nil {
		return err
	}
	defer done()
	if err := b.phase("Debian packages", func(t *progress.Task) error { return b.packagesOnServer(ctx, t, on, m.Suite) }); err != nil {
		return err
	}
	if err := b.phase("playbooks", func(t *progress.Task) error { return b.play(ctx, t, b.playbooks, on) }); err != nil {
		return err
	}
	status, err := conn.Run(ctx, "cat /var/lib/dpkg/status", nil)
	if err != nil {
		return err
	}
	if m.Packages, err = readStatus(bytes.NewReader(status)); err != nil {
		return err
	}
	if err := b.phase("clean-up and checks", func(*progress.Task) error {
		_, err := conn.RunWithin(ctx, finishTimeout, "sh -s "+buildUser, bytes.NewReader(finish))
		return err
	}); err != nil {
		return err
	}
	return b.phase("snapshot", func(*progress.Task) error { return c.Snapshot(ctx, m.ID, m.Suite) })
}

// newKey makes the key of one build, in a file for ssh(1) and as a line of
// authorized_keys.
func (b *build) newKey() (ssh.Signer, string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(b.keyFile(), pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, "", err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, "", err
	}
	return signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
}

func (b *build) keyFile() string { return filepath.Join(b.dir, "ssh_key") }

// logIn returns when the server has ended its boot: until then cloud-init may
// change what playbooks do.
func (b *build) logIn(ctx context.Context, t *progress.Task, at remote.Target) (*remote.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, serverBoot)
	defer cancel()
	t.Update("waiting for SSH")
	conn, err := remote.Connect(ctx, at)
	if err != nil {
		return nil, err
	}
	t.Update("waiting for the end of the boot")
	if _, err := bootEnd(ctx, conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// debianSuite is Debian's name for what a machine runs.
func debianSuite(ctx context.Context, conn *remote.Conn) (string, error) {
	out, err := conn.Run(ctx, "cat /etc/os-release", nil)
	if err != nil {
		return "", err
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[k] = strings.Trim(v, `"`)
	}
	if fields["ID"] != "debian" {
		return "", fmt.Errorf("the source image has %s, not Debian; name another one as source in the image block", fields["PRETTY_NAME"])
	}
	return fields["VERSION_CODENAME"], nil
}

// overSSH has playbooks run on a server. Those connections that ansible keeps
// open are ended by done.
func (b *build) overSSH(address string, host ssh.PublicKey) (on target, done func(), err error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return on, nil, err
	}
	known := filepath.Join(b.dir, "known_hosts")
	if err := os.WriteFile(known, []byte(knownhosts.Line([]string{knownhosts.Normalize(address)}, host)+"\n"), 0o600); err != nil {
		return on, nil, err
	}
	inventory, err := json.Marshal(map[string]any{"all": map[string]any{"hosts": map[string]any{"image": map[string]any{
		"ansible_host": name, "ansible_port": port, "ansible_user": buildUser, "ansible_ssh_private_key_file": b.keyFile(),
		"ansible_ssh_common_args": "-o UserKnownHostsFile=" + known + " -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o ServerAliveInterval=15",
	}}}})
	if err != nil {
		return on, nil, err
	}
	file := filepath.Join(b.dir, "inventory.json")
	if err := os.WriteFile(file, inventory, 0o600); err != nil {
		return on, nil, err
	}
	// The names of sockets may not be long.
	sockets, err := os.MkdirTemp("", "plasmid-")
	if err != nil {
		return on, nil, err
	}
	on = target{args: []string{"-i", file}, env: []string{
		"ANSIBLE_SSH_CONTROL_PATH_DIR=" + sockets, "ANSIBLE_TIMEOUT=60", "ANSIBLE_PIPELINING=1",
	}, vars: map[string]any{"plasmid_image_tree": false}}
	return on, func() {
		open, _ := filepath.Glob(filepath.Join(sockets, "*"))
		for _, s := range open {
			_ = exec.Command("ssh", "-o", "ControlPath="+s, "-O", "exit", name).Run()
		}
		os.RemoveAll(sockets)
	}, nil
}

// packagesOnServer installs what every image has. Mirror, proxy and date policy
// are the server's own, unless the image block has others: this host's may not
// be reached from there.
func (b *build) packagesOnServer(ctx context.Context, t *progress.Task, on target, suite string) error {
	var p aptPolicy
	p.override(b.Config)
	p.Options = append(p.Options, `Acquire::Retries "3";`, `DPkg::Lock::Timeout "600";`)
	sources := ""
	if p.Mirror != "" {
		sources = fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, p.Mirror, suite)
		p.Options = append(p.Options, `Dir::Etc::SourceList "`+buildSources+`";`, `Dir::Etc::SourceParts "-";`)
	}
	vars := map[string]any{
		"plasmid_apt_conf": strings.Join(p.Options, "\n") + "\n", "plasmid_apt_sources": sources, "plasmid_apt_sources_file": buildSources,
		"plasmid_packages": slices.Concat(basePackages, b.Config.Packages), "plasmid_dpkg_conf": strings.Join(excluded, "\n") + "\n",
	}
	file := filepath.Join(b.dir, "prepare.yml")
	if err := os.WriteFile(file, prepare, 0o600); err != nil {
		return err
	}
	on.vars = vars
	return b.play(ctx, t, []string{file}, on)
}

// buildSources is apt's list of sources during a build, if it is not the
// server's own.
const buildSources = "/etc/apt/plasmid-build.list"
