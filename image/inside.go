package image

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"plasmid/internal/remote"
)

// lookScript prints what look judges. It begins when the boot has ended;
// is-system-running fails when the answer is not "running".
const lookScript = `sh -c '
field() { printf "%s\t" "$1"; shift; "$@" 2>&1 | tr "\n\t" "; "; echo; }
field failed systemctl list-units --failed --plain --no-legend
field docker docker info --format "{{.ServerVersion}} {{.Driver}}"
field plasmidd-enabled systemctl is-enabled plasmidd
field plasmidd-active systemctl is-active plasmidd
field plasmidd-result systemctl show --value -p ConditionResult plasmidd
field plasmidd-version plasmidd --version
field etcd-active systemctl is-active etcd
field machine-id cat /etc/machine-id
field hostname hostname
field environment cat /etc/environment
field root findmnt -bno SIZE /
field disk lsblk -bdno SIZE /dev/vda
field meminfo grep -E "^Mem(Total|Available):" /proc/meminfo
field efi sh -c "test -d /sys/firmware/efi && echo yes || echo no"
'`

// bootRetry is how often a machine that boots is asked whether it is done.
const bootRetry = 500 * time.Millisecond

// look judges a booted machine from inside.
func look(ctx context.Context, b *Boot, conn *remote.Conn, started time.Time) error {
	state, err := bootEnd(ctx, conn)
	if err != nil {
		return err
	}
	b.UpSeconds = time.Since(started).Seconds()
	out, err := conn.Run(ctx, lookScript, nil)
	if err != nil {
		return err
	}
	judge(b, state, parseFields(out))
	return nil
}

// bootEnd waits until systemd says that the boot is over, and returns how it
// ended.
func bootEnd(ctx context.Context, conn *remote.Conn) (string, error) {
	for {
		out, err := conn.Run(ctx, "sh -c 'systemctl is-system-running || true'", nil)
		if err != nil {
			return "", err
		}
		switch state := string(bytes.TrimSpace(out)); state {
		case "initializing", "starting", "":
		default:
			return state, nil
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(errors.New("the boot does not end"), ctx.Err())
		case <-time.After(bootRetry):
		}
	}
}

func parseFields(out []byte) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(line, "\t")
		fields[name] = strings.Trim(value, "; \n")
	}
	return fields
}

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// judge fills in what was seen, with what is wrong about it.
func judge(b *Boot, state string, f map[string]string) {
	if state != "running" {
		b.problem("systemd is %s, not running", state)
	}
	if f["failed"] != "" {
		b.problem("units failed: %s", f["failed"])
	}
	if v, driver, ok := strings.Cut(f["docker"], " "); !ok || v == "" || driver != "overlayfs" && driver != "overlay2" {
		b.problem("docker does not answer, or has no overlay driver: %q", f["docker"])
	}
	for name, want := range map[string]string{
		"plasmidd-enabled": "enabled", "plasmidd-active": "inactive", "plasmidd-result": "no", "etcd-active": "inactive",
	} {
		if f[name] != want {
			b.problem("%s is %q, expected %q before the node is joined", name, f[name], want)
		}
	}
	if !strings.Contains(f["plasmidd-version"], ".") {
		b.problem("plasmidd does not run: %s", f["plasmidd-version"])
	}
	if b.MachineID = f["machine-id"]; !machineID.MatchString(b.MachineID) {
		b.problem("/etc/machine-id is %q", b.MachineID)
	}
	if want := "boot-" + b.Firmware; f["hostname"] != want {
		b.problem("the host name is %q, the config drive said %q", f["hostname"], want)
	}
	environment := strings.Split(f["environment"], ";")
	for _, v := range []string{"COREOS_PRIVATE_IPV4", "COREOS_PUBLIC_IPV4", "PLASMID_PRIVATE_IPV4", "PLASMID_PUBLIC_IPV4"} {
		if want := v + "=" + bootAddress; !slices.Contains(environment, want) {
			b.problem("/etc/environment has no %s", want)
		}
	}
	root, _ := strconv.ParseInt(f["root"], 10, 64)
	disk, _ := strconv.ParseInt(strings.TrimSpace(f["disk"]), 10, 64)
	if disk == 0 || root < disk*9/10-(256<<20) {
		b.problem("the root has %d MiB of a disk of %d MiB: it did not grow", root>>20, disk>>20)
	}
	if efi := f["efi"] == "yes"; efi != (b.Firmware == UEFI) {
		b.problem("booted by UEFI: %v", efi)
	}
	b.UsedMiB = usedMemory(f["meminfo"])
}

var memField = regexp.MustCompile(`(\w+): *(\d+) kB`)

// usedMemory is what is not available to programs, in MiB.
func usedMemory(meminfo string) int {
	kib := map[string]int{}
	for _, m := range memField.FindAllStringSubmatch(meminfo, -1) {
		kib[m[1]], _ = strconv.Atoi(m[2])
	}
	return (kib["MemTotal"] - kib["MemAvailable"]) >> 10
}
