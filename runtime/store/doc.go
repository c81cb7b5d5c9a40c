// Package store is the etcd schema of a cluster: its keys, transactions and
// watches. No other package uses the etcd client for Plasmid's own keys.
//
// DESIGN.md says why the keys are as they are.
package store
