// Package e2e tests whole clusters of local machines, with the programs as a
// user runs them. The tests need root, an image and the build tag e2e; test/run
// sees to all three.
package e2e
