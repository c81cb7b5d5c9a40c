// Package bench measures Plasmid and prints one table, every figure beside a
// baseline of the same run. Nothing is asserted: machines are noisy. It runs by
// make bench; docs/benchmarks.md says what each row means.
package bench
