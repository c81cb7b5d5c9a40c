package store

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config says how to reach etcd.
type Config struct {
	Endpoints []string    // https://host:port
	TLS       *tls.Config // nil: none
	Prefix    string      // empty: DefaultPrefix
	Timeout   time.Duration
	Logger    *slog.Logger
	// DialOptions are for operators who reach etcd by way of another machine.
	DialOptions []grpc.DialOption
}

// DefaultTimeout is for one request.
const DefaultTimeout = 5 * time.Second

// maxOps is the most operations in one transaction; etcd's own default limit
// is 128.
const maxOps = 100

// reconnect says how soon an etcd that was away is tried again. By gRPC's own
// default it could be two minutes, in which every lease would expire.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
	MinConnectTimeout: DefaultTimeout,
}

// Errors of the store. What wraps them names the key.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrConflict = errors.New("was changed by somebody else meanwhile; try again")
)

// Store reads and writes a cluster's keys.
type Store struct {
	client  *clientv3.Client
	config  clientv3.Config // that the client was made with
	prefix  string
	timeout time.Duration
	log     *slog.Logger

	mu       sync.Mutex
	restored chan struct{} // closed, and made anew, when etcd went back in time
}

// Open returns a store without waiting for etcd to answer; Ping does that.
func Open(ctx context.Context, c Config) (*Store, error) {
	if len(c.Endpoints) == 0 {
		return nil, errors.New("no etcd endpoints are given")
	}
	s := &Store{prefix: c.Prefix, timeout: c.Timeout, log: c.Logger, restored: make(chan struct{})}
	if s.prefix == "" {
		s.prefix = DefaultPrefix
	}
	if s.timeout == 0 {
		s.timeout = DefaultTimeout
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.config = clientv3.Config{
		Context:              context.WithoutCancel(ctx),
		Endpoints:            c.Endpoints,
		TLS:                  c.TLS,
		DialTimeout:          s.timeout,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		AutoSyncInterval:     0,
		RejectOldCluster:     false,
		DialOptions:          append([]grpc.DialOption{grpc.WithConnectParams(reconnect)}, c.DialOptions...),
		Logger:               zap.NewNop(), // errors come back from the calls
	}
	client, err := clientv3.New(s.config)
	if err != nil {
		return nil, fmt.Errorf("etcd at %v: %w", c.Endpoints, err)
	}
	s.client = client
	return s, nil
}

// Close ends all watches and connections.
func (s *Store) Close() error { return s.client.Close() }

// Client is the etcd client, for the membership and the users of etcd itself.
func (s *Store) Client() *clientv3.Client { return s.client }

// Ping asks for a linearizable read, so it fails without a quorum.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.get(ctx, keySchema)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func (s *Store) key(k string) string { return s.prefix + k }

func (s *Store) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout)
}

// failed adds what was being done, and takes etcd's client's own words for a
// deadline out of the way.
func failed(what string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: etcd did not answer in time: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// get reads one key; ErrNotFound if it is not there.
func (s *Store) get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	resp, err := s.client.Get(ctx, s.key(key))
	if err != nil {
		return nil, failed("reading "+key, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	return resp.Kvs[0], nil
}

// commit runs a transaction of any length in pieces of maxOps, each under the
// same conditions. It returns the last revision, and false if a condition did
// not hold; pieces before that one stay done.
func (s *Store) commit(ctx context.Context, conditions []clientv3.Cmp, ops []clientv3.Op) (int64, bool, error) {
	var revision int64
	for piece := range slices.Chunk(ops, maxOps) {
		ok, r, err := s.commitPiece(ctx, conditions, piece)
		if err != nil || !ok {
			return r, false, err
		}
		revision = r
	}
	return revision, true, nil
}

func (s *Store) commitPiece(ctx context.Context, conditions []clientv3.Cmp, ops []clientv3.Op) (bool, int64, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	resp, err := s.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil {
		return false, 0, failed("writing", err)
	}
	return resp.Succeeded, resp.Header.Revision, nil
}

func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic("store: a value of ours can't be encoded: " + err.Error())
	}
	return string(data)
}

func decode[T any](kv *mvccpb.KeyValue) (T, error) {
	var v T
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return v, fmt.Errorf("key %s: %w", kv.Key, err)
	}
	return v, nil
}
