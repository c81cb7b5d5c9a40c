package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Below the app's prefix:
//
//	cluster/record         the bootstrap, for ever
//	cluster/claim          who may start the cluster now, on its lease
//	cluster/known/<id>     who may hold the latest writes
//	cluster/live/<id>      what a running supervisor says, on its lease
//	secrets/<name>         made once, by whoever comes first
const (
	keyRecord = "cluster/record"
	keyClaim  = "cluster/claim"
	dirKnown  = "cluster/known/"
	dirLive   = "cluster/live/"
	dirAll    = "cluster/"
	dirSecret = "secrets/"
)

// ErrOvertaken means that a transaction did nothing, because what it was
// decided on is no longer so.
var ErrOvertaken = errors.New("overtaken by a change in etcd")

const (
	storeTimeout = 4 * time.Second // of one call
	// LeaseSeconds is how long a supervisor that is gone is believed to live.
	LeaseSeconds = 5
)

// Store is the app's part of etcd as one member sees it.
type Store struct {
	client *clientv3.Client
	prefix string // with a slash at its end
	id     string

	mu    sync.Mutex
	lease clientv3.LeaseID
}

// NewStore returns the view of member id on the keys below prefix.
func NewStore(c *clientv3.Client, prefix, id string) *Store {
	return &Store{client: c, prefix: strings.TrimSuffix(prefix, "/") + "/", id: id}
}

// snapshot is a view with what is needed to act on it and on nothing else.
type snapshot struct {
	View
	revision int64
	seen     map[string]int64 // key → revision of its last change
	claim    int64            // revision at which the claim was made
}

func call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, storeTimeout)
}

// read gets everything at one revision.
func (s *Store) read(ctx context.Context) (snapshot, error) {
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := s.client.Get(ctx, s.prefix+dirAll, clientv3.WithPrefix())
	if err != nil {
		return snapshot{}, fmt.Errorf("reading the cluster's keys: %w", err)
	}
	snap := snapshot{View{Known: map[string]Known{}, Live: map[string]Live{}}, resp.Header.Revision, map[string]int64{}, 0}
	for _, kv := range resp.Kvs {
		key := strings.TrimPrefix(string(kv.Key), s.prefix)
		snap.seen[key] = kv.ModRevision
		if err := snap.take(key, kv); err != nil {
			return snapshot{}, fmt.Errorf("key %s: %w", kv.Key, err)
		}
	}
	return snap, nil
}

func (n *snapshot) take(key string, kv *mvccpb.KeyValue) error {
	if key == keyRecord {
		n.Cluster = &Cluster{}
		return json.Unmarshal(kv.Value, n.Cluster)
	}
	if key == keyClaim {
		n.Claim, n.claim = string(kv.Value), kv.CreateRevision
		return nil
	}
	if id, ok := strings.CutPrefix(key, dirKnown); ok {
		var k Known
		err := json.Unmarshal(kv.Value, &k)
		n.Known[id] = k
		return err
	}
	if id, ok := strings.CutPrefix(key, dirLive); ok {
		var l Live
		err := json.Unmarshal(kv.Value, &l)
		n.Live[id] = l
		return err
	}
	return nil
}

// watch calls changed after every change, and after every time in which one
// may have been missed, until ctx ends.
func (s *Store) watch(ctx context.Context, changed func()) {
	for ctx.Err() == nil {
		wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		for resp := range s.client.Watch(wctx, s.prefix+dirAll, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
			if resp.Err() != nil {
				break
			}
			changed()
		}
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a struct of strings and numbers
	}
	return string(b)
}

// commit returns the revision of what it wrote.
func (s *Store) commit(ctx context.Context, cmps []clientv3.Cmp, ops ...clientv3.Op) (int64, error) {
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := s.client.Txn(ctx).If(cmps...).Then(ops...).Commit()
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, ErrOvertaken
	}
	return resp.Header.Revision, nil
}

func (s *Store) txn(ctx context.Context, cmps []clientv3.Cmp, ops ...clientv3.Op) error {
	_, err := s.commit(ctx, cmps, ops...)
	return err
}

// keepLease renews the member's lease, or gets a new one; fresh says that
// nothing is on it yet.
func (s *Store) keepLease(ctx context.Context) (fresh bool, err error) {
	ctx, cancel := call(ctx)
	defer cancel()
	s.mu.Lock()
	lease := s.lease
	s.mu.Unlock()
	if lease != 0 {
		_, err := s.client.KeepAliveOnce(ctx, lease)
		if err == nil || !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return false, err
		}
	}
	grant, err := s.client.Grant(ctx, LeaseSeconds)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	s.lease = grant.ID
	s.mu.Unlock()
	return true, nil
}

func (s *Store) onLease() clientv3.OpOption {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clientv3.WithLease(s.lease)
}

// report writes what the supervisor says of its member.
func (s *Store) report(ctx context.Context, l Live) error {
	return s.txn(ctx, nil, clientv3.OpPut(s.prefix+dirLive+s.id, encode(l), s.onLease()))
}

// unchanged holds while everything that snap was decided on is as it was: no
// key is gone, changed or new.
func (s *Store) unchanged(snap snapshot) []clientv3.Cmp {
	cmps := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(s.prefix+dirAll).WithPrefix(), "<", snap.revision+1)}
	for key, rev := range snap.seen {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(s.prefix+key), "=", rev))
	}
	return cmps
}

// claim makes this member the only one that may start the cluster, as long as
// its lease lives. ErrOvertaken if anything has changed since snap, or if there
// is a claim.
// From then on the member counts as one whose server runs.
func (s *Store) claim(ctx context.Context, snap snapshot, l Live) (claim int64, err error) {
	return s.commit(ctx, append(s.unchanged(snap), clientv3.Compare(clientv3.CreateRevision(s.prefix+keyClaim), "=", 0)),
		clientv3.OpPut(s.prefix+keyClaim, s.id, s.onLease()),
		clientv3.OpPut(s.prefix+dirLive+s.id, encode(l), s.onLease()))
}

// disclaim gives the claim back, if it is this member's.
func (s *Store) disclaim(ctx context.Context) error {
	err := s.txn(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.Value(s.prefix+keyClaim), "=", s.id)}, clientv3.OpDelete(s.prefix+keyClaim))
	if errors.Is(err, ErrOvertaken) {
		return nil
	}
	return err
}

// found writes the record of the bootstrap. It fails with ErrOvertaken unless
// the claim still is the one of this member that was made at revision.
func (s *Store) found(ctx context.Context, claim int64, uuid string, k Known) error {
	return s.txn(ctx,
		[]clientv3.Cmp{
			clientv3.Compare(clientv3.CreateRevision(s.prefix+keyRecord), "=", 0),
			clientv3.Compare(clientv3.Value(s.prefix+keyClaim), "=", s.id),
			clientv3.Compare(clientv3.CreateRevision(s.prefix+keyClaim), "=", claim),
		},
		clientv3.OpPut(s.prefix+keyRecord, encode(Cluster{uuid, s.id})),
		clientv3.OpPut(s.prefix+dirKnown+s.id, encode(k)),
		clientv3.OpDelete(s.prefix+keyClaim))
}

// record writes the record of a cluster that runs and of which etcd has lost
// it, and the secrets that its members have.
func (s *Store) record(ctx context.Context, uuid string, secrets map[string]string) error {
	ops := []clientv3.Op{clientv3.OpPut(s.prefix+keyRecord, encode(Cluster{uuid, s.id}))}
	for name, value := range secrets {
		ops = append(ops, clientv3.OpPut(s.prefix+dirSecret+name, value))
	}
	return s.txn(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(s.prefix+keyRecord), "=", 0)}, ops...)
}

// enter makes this member known, and says what it does.
func (s *Store) enter(ctx context.Context, l Live) error {
	return s.txn(ctx, nil,
		clientv3.OpPut(s.prefix+dirKnown+s.id, encode(Known{l.Machine, l.Address})),
		clientv3.OpPut(s.prefix+dirLive+s.id, encode(l), s.onLease()))
}

// forget makes a member unknown that is as it was in snap and not live.
func (s *Store) forget(ctx context.Context, snap snapshot, id string) error {
	return s.txn(ctx,
		[]clientv3.Cmp{
			clientv3.Compare(clientv3.ModRevision(s.prefix+dirKnown+id), "=", snap.seen[dirKnown+id]),
			clientv3.Compare(clientv3.CreateRevision(s.prefix+dirLive+id), "=", 0),
		},
		clientv3.OpDelete(s.prefix+dirKnown+id))
}

// adopt writes the record of a cluster that etcd does not know, with those
// members that have its data.
func (s *Store) adopt(ctx context.Context, snap snapshot, uuid string) error {
	ops := []clientv3.Op{clientv3.OpPut(s.prefix+keyRecord, encode(Cluster{uuid, s.id}))}
	for id, l := range snap.Live {
		if l.Position.UUID == uuid {
			ops = append(ops, clientv3.OpPut(s.prefix+dirKnown+id, encode(Known{l.Machine, l.Address})))
		}
	}
	return s.txn(ctx, s.unchanged(snap), ops...)
}

// leave ends the lease and with it all that is on it.
func (s *Store) leave(ctx context.Context) error {
	s.mu.Lock()
	lease := s.lease
	s.lease = 0
	s.mu.Unlock()
	if lease == 0 {
		return nil
	}
	ctx, cancel := call(ctx)
	defer cancel()
	_, err := s.client.Revoke(ctx, lease)
	return err
}

// Secret returns the secret of that name, made by create if there is none yet.
// All members get the same.
func (s *Store) Secret(ctx context.Context, name string, create func() (string, error)) (string, error) {
	key := s.prefix + dirSecret + name
	value, err := create()
	if err != nil {
		return "", err
	}
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	if resp.Succeeded {
		return value, nil
	}
	return string(resp.Responses[0].GetResponseRange().Kvs[0].Value), nil
}

// View is what etcd has now.
func (s *Store) View(ctx context.Context) (View, error) {
	snap, err := s.read(ctx)
	return snap.View, err
}

// GiveUp forgets a member for an operator. One that is live, or not known, is
// refused.
func (s *Store) GiveUp(ctx context.Context, id string) error {
	snap, err := s.read(ctx)
	if err != nil {
		return err
	}
	if _, known := snap.Known[id]; !known {
		return fmt.Errorf("there is no member %s; see: galera status", id)
	}
	if _, live := snap.Live[id]; live {
		return fmt.Errorf("member %s is live: it is not given up", snap.name(id))
	}
	return s.forget(ctx, snap, id)
}

// Adopt makes the data that live members report the cluster's, if etcd knows
// of no cluster and they all report the same.
func (s *Store) Adopt(ctx context.Context) error {
	snap, err := s.read(ctx)
	if err != nil {
		return err
	}
	if snap.Cluster != nil {
		return fmt.Errorf("there is a cluster already: %s", snap.Cluster.UUID)
	}
	uuid := ""
	for id, l := range snap.Live {
		switch {
		case l.Position.Empty() || l.Position.UUID == uuid:
		case uuid == "":
			uuid = l.Position.UUID
		default:
			return fmt.Errorf("members have data of different clusters, such as %s on %s; move away what is not to be gone on with", l.Position.UUID, snap.name(id))
		}
	}
	if uuid == "" {
		return errors.New("no live member has data")
	}
	return s.adopt(ctx, snap, uuid)
}
