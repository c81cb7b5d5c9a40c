// Package store is the etcd schema of a cluster: its keys, transactions and
// watches. No other package uses the etcd client for Plasmid's own keys.
package store
