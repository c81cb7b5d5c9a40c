// Package schedule decides which machine runs which unit. It is pure: a view
// of the cluster goes in, decisions with reasons come out; there is no I/O and
// no clock, and the same view gives the same decisions.
//
// A unit that is where it may be stays there. A unit that is nowhere goes to
// the machine with the fewest units among those that can run it, the machine's
// ID breaking a tie; if it is to be spread, the fewest of its like count first.
//
// Units that ask the same of a machine share what was found out about it, and a
// queue of the machines that fit, so that a plan from nothing costs
// O(units · log machines + classes · machines), where classes are the different
// conditions on metadata and facts that there are.
package schedule
