//go:build openstack

package openstack

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// guardScript makes three network namespaces: a machine, a container that it
// forwards for, and a metadata service. They end with the script.
const guardScript = `
set -e
trap 'kill $C $S $H 2>/dev/null' EXIT
ip link set lo up
unshare -n sleep 60 & C=$!
unshare -n sleep 60 & S=$!
until [ "$(readlink /proc/$C/ns/net)" != "$(readlink /proc/self/ns/net)" ] && [ "$(readlink /proc/$S/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
ip link add v0 type veth peer name v1 netns $C
ip link add w0 type veth peer name w1 netns $S
ip addr add 10.9.9.1/24 dev v0; ip link set v0 up
ip addr add 10.8.8.1/24 dev w0; ip link set w0 up
ip route add 169.254.169.254/32 dev w0
nsenter -t $C -n sh -c 'ip addr add 10.9.9.2/24 dev v1; ip link set v1 up; ip route add default via 10.9.9.1'
nsenter -t $S -n sh -c 'ip addr add 10.8.8.2/24 dev w1; ip addr add 169.254.169.254/32 dev w1; ip link set w1 up; ip route add default via 10.8.8.1'
echo 1 >/proc/sys/net/ipv4/ip_forward
nsenter -t $S -n "$SERVER" -test.run '^TestMetadataService$' & H=$!
ask() { timeout 5 bash -c 'exec 3<>/dev/tcp/169.254.169.254/80' 2>/dev/null && echo reached || echo refused; }
export -f ask
until [ "$(ask)" = reached ]; do :; done
look() { echo "container $(nsenter -t $C -n bash -c ask), nobody $(setpriv --reuid=65534 --clear-groups bash -c ask), root $(ask)"; }
look
nft "$GUARD"
nft "$GUARD"
look
`

// The metadata service is out of the reach of containers and of those who are
// not root, and of nobody else. It needs root itself, as the lab does.
func TestMetadataGuard(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-n", "bash", "-c", guardScript)
	cmd.Env = append(os.Environ(), "GUARD="+metadataGuard, "SERVER="+self, "PLASMID_METADATA_SERVICE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const want = "container reached, nobody reached, root reached\ncontainer refused, nobody refused, root reached\n"
	if !strings.HasSuffix(string(out), want) {
		t.Errorf("got  %s\nwant %s", out, want)
	}
}

// TestMetadataService is the service that TestMetadataGuard asks, in a process
// of its own.
func TestMetadataService(t *testing.T) {
	if os.Getenv("PLASMID_METADATA_SERVICE") == "" {
		return
	}
	l, err := net.Listen("tcp", "169.254.169.254:80")
	if err != nil {
		t.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}
