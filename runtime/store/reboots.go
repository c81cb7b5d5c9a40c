package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/reboot"
)

// ChangeReboot replaces a group's reboot lock by what f makes of it. f is
// called again when somebody else changed the lock meanwhile; what it leaves as
// it is, is not written. It returns the revision at which a Mirror shows the
// change, 0 if nothing had to change.
func (s *Store) ChangeReboot(ctx context.Context, group string, f func(reboot.Semaphore) (reboot.Semaphore, error)) (int64, error) {
	return s.changeReboot(ctx, group, nil, f)
}

// ReleaseReboot takes the lock from a machine that is lost. It is fenced by
// the election: ErrDeposed if another machine has been elected since. A holder
// that is not the very one, because the machine came back and took the lock
// again, keeps it.
func (l *Leadership) ReleaseReboot(ctx context.Context, group string, lost reboot.Holder) (int64, error) {
	fence := l.fence()
	return l.store.changeReboot(ctx, group, &fence, func(s reboot.Semaphore) (reboot.Semaphore, error) {
		if have, ok := s.Holder(lost.Machine); !ok || !have.Since.Equal(lost.Since) || have.Boot != lost.Boot {
			return s, nil
		}
		return s.Release(lost.Machine), nil
	})
}

func (s *Store) changeReboot(ctx context.Context, group string, fence *clientv3.Cmp, f func(reboot.Semaphore) (reboot.Semaphore, error)) (int64, error) {
	if err := reboot.CheckGroup(group); err != nil {
		return 0, err
	}
	// Many machines may want the lock at once; each round one of them wins.
	const tries = 20
	key := s.key(rebootKey(group))
	for range tries {
		var have reboot.Semaphore
		var revision int64
		kv, err := s.get(ctx, rebootKey(group))
		switch {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return 0, err
		default:
			if have, err = decode[reboot.Semaphore](kv); err != nil {
				return 0, err
			}
			revision = kv.ModRevision
		}
		next, err := f(have)
		if err != nil || reflect.DeepEqual(have, next) {
			return 0, err
		}
		conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", revision)}
		if fence != nil {
			conditions = append(conditions, *fence)
		}
		op := clientv3.OpPut(key, encode(next))
		if next.Max == nil && len(next.Holders) == 0 {
			op = clientv3.OpDelete(key)
		}
		r, ok, err := s.commit(ctx, conditions, []clientv3.Op{op})
		if err != nil || ok {
			return r, err
		}
		if fence != nil {
			if _, still, err := s.commit(ctx, []clientv3.Cmp{*fence}, []clientv3.Op{clientv3.OpGet(key)}); err != nil {
				return 0, err
			} else if !still {
				return 0, ErrDeposed
			}
		}
	}
	return 0, fmt.Errorf("reboot lock of group %s: %w", group, ErrConflict)
}

// Reboots returns a group's reboot lock, and false while the store does not
// answer.
func (m *Mirror) Reboots(group string) (reboot.Semaphore, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view.Reboots[group], m.current
}

// memberLimit is for one member's answer.
const memberLimit = 2 * time.Second

// SafeWithout says why etcd can't do without the member of that name now: nil
// if it is none, if it is the only one, or if enough of the others answer.
func (s *Store) SafeWithout(ctx context.Context, name string) error {
	dctx, cancel := s.deadline(ctx)
	defer cancel()
	list, err := s.client.MemberList(dctx)
	if err != nil {
		return failed("asking etcd for its members", err)
	}
	voters, well, among := 0, 0, false
	var silent []string
	for _, m := range list.Members {
		if m.IsLearner {
			continue
		}
		voters++
		if m.Name == name {
			among = true
			continue
		}
		if s.answers(ctx, m.ClientURLs) {
			well++
		} else {
			silent = append(silent, m.Name)
		}
	}
	if !among || voters == 1 {
		return nil
	}
	if well < voters/2+1 {
		return fmt.Errorf("etcd would lose its majority: of its %d members, %v can't be reached", voters, silent)
	}
	return nil
}

// answers reports whether the member at the URLs takes part: it reads what a
// majority agrees on. Its own status would tell more, and is for etcd's root
// only.
func (s *Store) answers(ctx context.Context, urls []string) bool {
	if len(urls) == 0 {
		return false // it was announced and has never run
	}
	config := s.config
	config.Endpoints = urls
	c, err := clientv3.New(config)
	if err != nil {
		return false
	}
	defer c.Close()
	rctx, cancel := context.WithTimeout(ctx, min(s.timeout, memberLimit))
	defer cancel()
	_, err = c.Get(rctx, s.key(keySchema), clientv3.WithKeysOnly())
	return err == nil
}

// MemberWell says what is amiss with the etcd member of that name: nil if it
// answers and has a leader, or if there is none of that name.
func (s *Store) MemberWell(ctx context.Context, name string) error {
	dctx, cancel := s.deadline(ctx)
	defer cancel()
	list, err := s.client.MemberList(dctx)
	if err != nil {
		return failed("asking etcd for its members", err)
	}
	for _, m := range list.Members {
		if m.Name == name && !s.answers(ctx, m.ClientURLs) {
			return errors.New("its etcd member does not answer yet")
		}
	}
	return nil
}
