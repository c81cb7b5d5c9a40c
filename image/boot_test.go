package image

import (
	"strings"
	"testing"
)

// A console as cloud-init writes it, in pieces that end anywhere.
func TestConsoleFindsTheHostKey(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0wmN/Cr3JXqmLW7u+g9pTh+wyqDHpSQEIQczXkVx9q"
	text := "[   20.1] boot\r\n" + key[:30] + "\r\n" +
		"-----BEGIN SSH HOST KEY KEYS-----\r\n" + key + " root@boot\r\n-----END SSH HOST KEY KEYS-----\r\nlogin:"
	c := newConsole()
	for i := range len(text) {
		_, more := c.hostKey()
		if _, err := c.Write([]byte{text[i]}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-more:
		default:
			t.Fatal("nobody was told of more")
		}
	}
	got, _ := c.hostKey()
	if got == nil || got.Type() != "ssh-ed25519" {
		t.Fatalf("got %v", got)
	}
	if !strings.Contains(c.last(), "BEGIN SSH HOST KEY") {
		t.Errorf("last words: %s", c.last())
	}
}

func TestConsoleTakesNoOtherKey(t *testing.T) {
	c := newConsole()
	c.Write([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0wmN/Cr3JXqmLW7u+g9pTh+wyqDHpSQEIQczXkVx9q\n"))
	if key, _ := c.hostKey(); key != nil {
		t.Error("a key outside the markers was taken")
	}
}

// healthy is what lookScript prints on a machine that is well.
const healthy = "failed\t\ndocker\t28.5.2 overlayfs; \nplasmidd-enabled\tenabled; \nplasmidd-active\tinactive; \nplasmidd-result\tno; \n" +
	"plasmidd-version\tplasmidd version 0.1.0; \netcd-active\tinactive; \nmachine-id\t0123456789abcdef0123456789abcdef; \nhostname\tboot-bios; \n" +
	"environment\tCOREOS_PRIVATE_IPV4=10.0.2.15;COREOS_PUBLIC_IPV4=10.0.2.15;PLASMID_PRIVATE_IPV4=10.0.2.15;PLASMID_PUBLIC_IPV4=10.0.2.15; \n" +
	"root\t6148202496; \ndisk\t6442450944; \nmeminfo\tMemTotal:  1000000 kB;MemAvailable:   700000 kB; \nefi\tno; \n"

func TestJudge(t *testing.T) {
	judged := func(state, out string) *Boot {
		b := &Boot{Firmware: BIOS}
		judge(b, state, parseFields([]byte(out)))
		return b
	}
	if b := judged("running", healthy); len(b.Problems) > 0 || b.UsedMiB != 292 || b.MachineID != "0123456789abcdef0123456789abcdef" {
		t.Errorf("a healthy machine: %+v", b)
	}
	for _, c := range []struct{ what, old, new, says string }{
		{"a failed unit", "failed\t", "failed\tx.service loaded failed failed; ", "units failed: x.service"},
		{"no docker", "28.5.2 overlayfs", "Cannot connect", "docker does not answer"},
		{"vfs", "overlayfs", "vfs", "overlay"},
		{"plasmidd off", "plasmidd-enabled\tenabled", "plasmidd-enabled\tdisabled", `plasmidd-enabled is "disabled"`},
		{"etcd on", "etcd-active\tinactive", "etcd-active\tactive", `etcd-active is "active"`},
		{"no machine-id", "0123456789abcdef0123456789abcdef", "uninitialized", "machine-id"},
		{"no address", "COREOS_PUBLIC_IPV4=10.0.2.15", "COREOS_PUBLIC_IPV4=", "no COREOS_PUBLIC_IPV4"},
		{"no growth", "root\t6148202496", "root\t4048202496", "did not grow"},
		{"wrong firmware", "efi\tno", "efi\tyes", "booted by UEFI: true"},
		{"wrong name", "boot-bios", "localhost", "host name"},
	} {
		if b := judged("running", strings.Replace(healthy, c.old, c.new, 1)); len(b.Problems) != 1 || !strings.Contains(b.Problems[0], c.says) {
			t.Errorf("%s: %q", c.what, b.Problems)
		}
	}
	if b := judged("degraded", healthy); len(b.Problems) != 1 {
		t.Errorf("degraded: %q", b.Problems)
	}
}

func TestNoTwoMachinesShareAnIdentity(t *testing.T) {
	boots := []Boot{{MachineID: "a", HostKey: "x"}, {MachineID: "b", HostKey: "y"}, {MachineID: "a", HostKey: "y"}}
	compare(boots)
	if len(boots[0].Problems)+len(boots[1].Problems) > 0 || len(boots[2].Problems) != 2 {
		t.Errorf("%+v", boots)
	}
}
