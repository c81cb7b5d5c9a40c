// Package unit holds what a unit file says: its options, its name and what it
// asks of the cluster. It is pure: text in, values out.
package unit
