package store

import (
	"context"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// dirRegistrations is where the keys of apps are, which units register in.
const dirRegistrations = "/apps/"

// Registrations are what changed about the keys that units are registered
// with: those of apps that are on a machine's lease. Keys are without /apps/.
type Registrations struct {
	Snapshot bool // Put is all there is
	Put      map[string]string
	Deleted  []string
}

// FollowRegistrations calls f with all registrations and with every change,
// until ctx ends. After every gap comes a snapshot.
func (s *Store) FollowRegistrations(ctx context.Context, f func(Registrations)) error {
	apps := &Store{client: s.client, prefix: dirRegistrations, timeout: s.timeout, log: s.log}
	return apps.follow(ctx, "", func(c change) error {
		if c.progress {
			return nil
		}
		r := Registrations{Snapshot: c.snapshot, Put: map[string]string{}}
		name := func(key []byte) string { return strings.TrimPrefix(string(key), dirRegistrations) }
		for _, kv := range c.kvs {
			if kv.Lease != 0 {
				r.Put[name(kv.Key)] = string(kv.Value)
			}
		}
		for _, e := range c.events {
			key := name(e.Kv.Key)
			if e.Type == clientv3.EventTypeDelete || e.Kv.Lease == 0 {
				delete(r.Put, key)
				r.Deleted = append(r.Deleted, key)
				continue
			}
			r.Put[key] = string(e.Kv.Value)
		}
		f(r)
		return nil
	}, func(error) {})
}
