package openstack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// firstBoot runs the node image's own cloud-init with user-data of ours, in
// namespaces that end with the script, above a tree that stays as it is.
const firstBoot = `
mount --make-rprivate /
ip link set lo up
mount -t tmpfs tmpfs "$WORK"
cd "$WORK"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$TREE,upperdir=upper,workdir=work" root
cd root
mkdir -p var/lib/cloud/seed/nocloud
echo '{"instance-id": "i-1", "local-hostname": "t-core-1"}' >var/lib/cloud/seed/nocloud/meta-data
printf %s "$USER_DATA" >var/lib/cloud/seed/nocloud/user-data
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
chroot . cloud-init init --local >&2
chroot . cloud-init init >&2
chroot . nft list ruleset
echo == keys
cat home/core/.ssh/authorized_keys
`

// What a machine is told is done by the image that it boots: cloud-init does
// nothing whose module the image leaves out. PLASMID_TREE is that image's tree,
// as test/run sets it; it needs root.
func TestImageDoesUserData(t *testing.T) {
	tree := os.Getenv("PLASMID_TREE")
	if tree == "" {
		t.Fatal("PLASMID_TREE does not say where the tree of the node image is; run make test, or build one and set it: plasmid image build --tree-only")
	}
	tree, err := filepath.EvalSymlinks(tree)
	if err != nil {
		t.Fatal(err)
	}
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA1DkWmKH3f0Zq8jS0mvY5sQkW6Y0Hy8l0o9S8W8b5c5 operator"
	var errs strings.Builder
	c := exec.CommandContext(t.Context(), "unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "sh", "-ec", firstBoot)
	c.Env = append(os.Environ(), "TREE="+tree, "WORK="+t.TempDir(), "USER_DATA="+string(userData([]string{key}, "")))
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs.String())
	}
	rules, keys, _ := strings.Cut(string(out), "== keys\n")
	for _, want := range []string{"table inet plasmid_metadata", "chain forward", "ip daddr 169.254.169.254 reject", "meta skuid != 0"} {
		if !strings.Contains(rules, want) {
			t.Errorf("%q is not among the rules after the first boot:\n%s", want, rules)
		}
	}
	if !strings.Contains(keys, key) {
		t.Errorf("the operator's key is not in authorized_keys: %q", keys)
	}
	if t.Failed() {
		t.Logf("cloud-init said:\n%s", errs.String())
	}
}
