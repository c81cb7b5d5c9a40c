package main

import (
	"errors"
	"io/fs"
	"os"
)

// controller is libvirt's program that starts a container.
const controller = "/usr/lib/libvirt/libvirt_lxc"

// controllerScript stands in the controller's place.
//
// libvirt takes from containers the right to make device nodes. Docker gives it
// to its own, and so can't start any. A definition can say otherwise, but those
// that Nova writes don't.
//
// Nova wants the console in a file, which libvirt's driver for containers leaves
// out. Nova then reads the terminal itself, in the moment in which somebody asks
// for the console: a container that says much waits for that, and what is read
// up to the middle of a character is thrown away. So it is read here, all the
// time; and Nova, which then has the file, finds nothing in its place.
//
// Nova makes a config drive, too, and then has no way to plug it in. What is on
// it is put where cloud-init looks for such a drive that is none: the root of
// the container is still mounted here.
const controllerScript = `#!/bin/bash
before=
for a; do
	[ "$before" != --name ] || name=$a
	before=$a
done
definition=/run/libvirt/lxc/$name.xml
sed -i "0,/<devices>/s//<features><capabilities policy='default'><mknod state='on'\/><\/capabilities><\/features><devices>/" "$definition"
console=$(sed -n '/<console /,/<\/console>/p' "$definition")
terminal=$(sed -n "s/.*<source path='\([^']*\)'.*/\1/p" <<<"$console")
log=$(sed -n "s/.*<log file='\([^']*\)'.*/\1/p" <<<"$console")
if [ -n "$terminal" ] && [ -n "$log" ]; then
	(
		# The other end among them: the reader is to end with the container.
		for fd in /proc/self/fd/*; do
			fd=${fd##*/}
			[ "$fd" -le 2 ] || eval "exec $fd>&-"
		done
		exec 3<"$terminal"
		mount --bind /dev/null "$terminal"
		cat <&3 >>"$log" &
	) >/dev/null 2>&1
fi
root=$(sed -n "/<filesystem /,/<\/filesystem>/s/.*<source dir='\([^']*\)'.*/\1/p" "$definition")
drive=$root/../disk.config
if [ -f "$drive" ]; then
	seed=$root/var/lib/cloud/seed/config_drive
	rm -rf "$seed"
	mkdir -p -m 700 "$seed/openstack/latest"
	for file in meta_data.json user_data vendor_data.json network_data.json; do
		# Not by a mount: many kernels can't read such a disk.
		text=$(isoinfo -R -i "$drive" -x "/openstack/latest/$file")
		[ -z "$text" ] || printf '%s\n' "$text" >"$seed/openstack/latest/$file"
	done
fi
exec ` + controller + `.real "$@"
`

// replaceController puts the script there, in the lab's own layer of the tree.
// The layer of the databases may have it, too, as it once was.
func replaceController() error {
	if _, err := os.Stat(controller + ".real"); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(controller, controller+".real"); err != nil {
			return err
		}
	}
	return os.WriteFile(controller, []byte(controllerScript), 0o755)
}
