// Package reboot lets the machines of a group reboot one after the other (or a
// few at a time), within a window, after their units have moved away.
//
// What is decided is pure: Semaphore, Window and Decide. Node carries it out on
// one machine. DESIGN.md says why it is built as it is.
package reboot
