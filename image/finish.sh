set -eu
user=$1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
journalctl --relinquish-var 2>/dev/null || :
userdel --force --remove "$user" 2>/dev/null || :
if getent passwd "$user" >/dev/null; then
	echo "the user $user can't be removed" >&2
	exit 1
fi
rm -f /etc/apt/apt.conf.d/99plasmid-build /etc/apt/plasmid-build.list
unshare --mount sh -ec '
	mount --make-rprivate /
	mount --bind / /mnt
	exec plasmid image finish /mnt
'
sync
setsid sh -c 'sleep 1; exec systemctl poweroff --force' >/dev/null 2>&1 </dev/null &
