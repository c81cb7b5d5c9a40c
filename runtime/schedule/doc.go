// Package schedule decides which machine runs which unit. It is pure: a view
// of the cluster goes in, decisions with reasons come out; there is no I/O and
// no clock, and the same view gives the same decisions.
//
// A unit that is where it may be stays there. A unit that is nowhere goes to
// the machine with the fewest units among those that can run it, the machine's
// ID breaking a tie.
package schedule
