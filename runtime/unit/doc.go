// Package unit holds what a unit file says: its options, its name and what it
// asks of the cluster. It is pure: text in, values out.
//
// The syntax is systemd.syntax(7). Beside systemd's own sections a unit may
// have [X-Fleet], with fleet's options and meanings, and [X-Plasmid], with
// Plasmid's own. systemd ignores both.
package unit
