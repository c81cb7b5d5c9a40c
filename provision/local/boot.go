package local

// The scripts that boot a machine. Each runs in a mount namespace of its own,
// so its mounts vanish with the machine; both end in systemd-nspawn. The
// namespace is a slave of the host's: were it private, its copies of the
// mounts in /run/netns would keep the other machines' networks alive after
// they are gone.
//
// On the options: there is no service manager to register with, so --keep-unit
// and --register=no; a given network namespace brings no right to configure
// it, so --capability; Docker writes to /proc/sys/net, so API_VFS_WRITABLE is
// network (with more, networkd would wait for udev); runc needs keyrings, bpf
// and mounts; and overlay2 can't lie on an overlay, so Docker's directories
// are bound from the host's disk.

const nspawn = `
mount -t overlay overlay -o "lowerdir=$(readlink "$DIR/tree"),upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec systemd-nspawn --quiet "$@" --boot --directory="$DIR/root" --machine="$NAME" --uuid="$UUID" \
	--network-namespace-path="$NS" --resolv-conf=off --link-journal=no --timezone=off --console=pipe \
	--capability=all --system-call-filter="add_key keyctl bpf @mount" \
	--bind="$DIR/docker:/var/lib/docker" --bind="$DIR/containerd:/var/lib/containerd"
`

// bootHybrid is for hosts whose controllers are on cgroup v1. systemd in the
// machine needs v2, which gets mounted where it looks. The machine's cgroups
// in v1 are made before, so that Docker in it starts from there and the
// machine's own limits hold.
const bootHybrid = `
while IFS=: read -r id controllers path; do
	[ "$id" != 0 ] && [ -n "$controllers" ] || continue
	name=${controllers#name=}
	root=/sys/fs/cgroup/$name
	[ -d "$root" ] || continue
	group=$root${path%/}/$GROUP
	mkdir -p "$group"
	case ,$name, in *,cpuset,*)
		cat "$root${path%/}/cpuset.cpus" >"$group/cpuset.cpus"
		cat "$root${path%/}/cpuset.mems" >"$group/cpuset.mems"
	esac
	case ,$name, in *,memory,*) [ "$MEMORY" = 0 ] || echo "$MEMORY" >"$group/memory.limit_in_bytes" ;; esac
	case ,$name, in *,cpu,*) [ "$QUOTA" = 0 ] || echo "$QUOTA" >"$group/cpu.cfs_quota_us" ;; esac
	echo $$ >"$group/cgroup.procs"
done </proc/self/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$GROUP"
echo $$ >"/sys/fs/cgroup/$GROUP/cgroup.procs"
set -- --keep-unit --register=no
` + nspawn

// bootUnified is for hosts with cgroup v2. Where systemd runs, nspawn asks it
// for a scope below a slice that is named as the machine's cgroup elsewhere;
// where it does not, the cgroup is made by hand.
const bootUnified = `
if [ -d /run/systemd/system ]; then
	set -- --register=no --slice="$GROUP.slice"
	[ "$MEMORY" = 0 ] || set -- "$@" --property=MemoryMax="$MEMORY"
	[ "$CPUS" = 0 ] || set -- "$@" --property=CPUQuota="$CPUS%"
else
	mkdir -p "/sys/fs/cgroup/$GROUP"
	for c in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control || true
	done
	[ "$MEMORY" = 0 ] || echo "$MEMORY" >"/sys/fs/cgroup/$GROUP/memory.max"
	[ "$QUOTA" = 0 ] || echo "$QUOTA 100000" >"/sys/fs/cgroup/$GROUP/cpu.max"
	echo $$ >"/sys/fs/cgroup/$GROUP/cgroup.procs"
	set -- --keep-unit --register=no
fi
` + nspawn
