package join

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/store"
)

// openStore connects to etcd as the operator.
func (a *Access) openStore(ctx context.Context, addresses []string) (*store.Store, error) {
	endpoints := make([]string, len(addresses))
	for i, addr := range addresses {
		endpoints[i] = "https://" + addr + ":2379"
	}
	return store.Open(ctx, store.Config{Endpoints: endpoints, TLS: a.ClientTLS(), DialOptions: a.etcdOptions()})
}

const (
	retryEvery    = 200 * time.Millisecond
	statusTimeout = 3 * time.Second  // for one member's own view
	askTimeout    = 10 * time.Second // for an answer that needs a majority
)

// retry calls f until it succeeds or ctx ends.
func retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(retryEvery):
		}
	}
}

// nodeUser and nodeRole are what machines are in etcd.
const nodeUser = "plasmid"

// secure makes users and roles and has etcd demand them. Users have no
// password: their name is the common name of their certificate. It may be
// called again.
func secure(ctx context.Context, c *clientv3.Client) error {
	if err := addRole(ctx, c, nodeUser, store.DefaultPrefix, "/apps/"); err != nil {
		return err
	}
	for user, role := range map[string]string{"root": "root", nodeUser: nodeUser} {
		if err := addUser(ctx, c, user, role); err != nil {
			return err
		}
	}
	if _, err := c.AuthEnable(ctx); err != nil {
		return fmt.Errorf("having etcd demand certificates' names: %w", err)
	}
	return nil
}

// SecureApp makes the etcd user and role of an app, which may do as it likes
// below /apps/<app>/ and nothing elsewhere.
func SecureApp(ctx context.Context, c *clientv3.Client, app string) error {
	if err := checkApp(app); err != nil {
		return err
	}
	if err := addRole(ctx, c, "app-"+app, "/apps/"+app+"/"); err != nil {
		return err
	}
	// The directory's own key too, which nobody writes but readers of the whole
	// directory ask for.
	if _, err := c.RoleGrantPermission(ctx, "app-"+app, "/apps/"+app, "", clientv3.PermissionType(clientv3.PermRead)); err != nil {
		return fmt.Errorf("granting /apps/%s to its etcd role: %w", app, err)
	}
	return addUser(ctx, c, "app-"+app, "app-"+app)
}

// DropApp takes the user and role of an app away.
func DropApp(ctx context.Context, c *clientv3.Client, app string) error {
	_, err := c.UserDelete(ctx, "app-"+app)
	if err != nil && !errors.Is(err, rpctypes.ErrUserNotFound) {
		return err
	}
	_, err = c.RoleDelete(ctx, "app-"+app)
	if errors.Is(err, rpctypes.ErrRoleNotFound) {
		return nil
	}
	return err
}

func addRole(ctx context.Context, c *clientv3.Client, role string, prefixes ...string) error {
	if _, err := c.RoleAdd(ctx, role); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return fmt.Errorf("adding etcd role %s: %w", role, err)
	}
	for _, p := range prefixes {
		perm := clientv3.PermissionType(clientv3.PermReadWrite)
		if _, err := c.RoleGrantPermission(ctx, role, p, clientv3.GetPrefixRangeEnd(p), perm); err != nil {
			return fmt.Errorf("granting %s to etcd role %s: %w", p, role, err)
		}
	}
	return nil
}

func addUser(ctx context.Context, c *clientv3.Client, user, role string) error {
	if _, err := c.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true}); err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
		return fmt.Errorf("adding etcd user %s: %w", user, err)
	}
	if role == "root" {
		if _, err := c.RoleAdd(ctx, role); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
			return fmt.Errorf("adding etcd role root: %w", err)
		}
	}
	if _, err := c.UserGrantRole(ctx, user, role); err != nil {
		return fmt.Errorf("granting etcd role %s to user %s: %w", role, user, err)
	}
	return nil
}

// EtcdMember is one member as etcd lists it.
type EtcdMember struct {
	ID      uint64
	Name    string // empty: added, but never started
	Address string
	Learner bool
	Healthy bool // answers and knows a leader
}

// etcdMembers lists the members. A serializable list is what one member
// remembers: it is to be had without a majority.
func etcdMembers(ctx context.Context, c *clientv3.Client, opts ...clientv3.OpOption) ([]EtcdMember, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	list, err := c.MemberList(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("listing etcd members: %w; look at: journalctl -u etcd on them", err)
	}
	var out []EtcdMember
	for _, m := range list.Members {
		e := EtcdMember{ID: m.ID, Name: m.Name, Learner: m.IsLearner}
		if len(m.PeerURLs) > 0 {
			if u, err := url.Parse(m.PeerURLs[0]); err == nil {
				e.Address = u.Hostname()
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// find is the index of a member by name, or by address if it has not started
// and so has no name yet; -1 if there is none.
func find(list []EtcdMember, name, address string) int {
	return slices.IndexFunc(list, func(m EtcdMember) bool { return m.Name == name || m.Address == address })
}

func peerURL(address string) string   { return "https://" + address + ":2380" }
func clientURL(address string) string { return "https://" + address + ":2379" }

// addLearner lists a machine as a member without a vote. It reports whether
// the machine's etcd data must go, being of another membership, and who the
// members are then. An earlier attempt may have ended anywhere.
func addLearner(ctx context.Context, c *clientv3.Client, name, address string, hasData bool) (reset bool, members map[string]string, err error) {
	for {
		list, err := etcdMembers(ctx, c)
		if err != nil {
			return false, nil, err
		}
		i := find(list, name, address)
		if i < 0 {
			reset = hasData
			if err := addOnce(ctx, c, address); err != nil {
				return false, nil, err
			}
			continue
		}
		m := list[i]
		started, usable := m.Name != "", hasData && !reset
		mismatch := !usable // of a voter: its disk is gone
		if m.Learner {
			mismatch = started != usable
		}
		if m.Address == address && !mismatch {
			return reset, peersOf(list, name, address), nil
		}
		// What is listed is not what the machine has. A member that comes back
		// without its data would break its word to the others.
		if err := removeListed(ctx, c, list, i, name); err != nil {
			return false, nil, err
		}
		reset = hasData
	}
}

// addOnce retries while etcd refuses because members have met only just now,
// an election runs, or another learner has not been promoted yet.
func addOnce(ctx context.Context, c *clientv3.Client, address string) error {
	return retry(ctx, func() error {
		_, err := c.MemberAddAsLearner(ctx, []string{peerURL(address)})
		if errors.Is(err, rpctypes.ErrPeerURLExist) {
			return nil
		}
		return err
	})
}

// peersOf is what a starting learner is told. All listed members must be in
// it; the name of one that never started does not matter.
func peersOf(list []EtcdMember, name, address string) map[string]string {
	peers := map[string]string{name: address}
	for _, m := range list {
		if m.Address == address {
			continue
		}
		if m.Name == "" {
			m.Name = fmt.Sprintf("member-%x", m.ID)
		}
		peers[m.Name] = m.Address
	}
	return peers
}

// promote gives a learner its vote once it has caught up. connect opens a
// client to one member.
func promote(ctx context.Context, c *clientv3.Client, name, address string, connect func(address string) (*clientv3.Client, error)) error {
	return retry(ctx, func() error {
		list, err := etcdMembers(ctx, c)
		if err != nil {
			return err
		}
		i := find(list, name, address)
		switch {
		case i < 0:
			return fmt.Errorf("etcd member %s is missing", name)
		case !list[i].Learner:
			return nil
		}
		// The leader itself is asked: a follower that passes the question on
		// takes "not yet" for a failure and tries until its time is up, after
		// 7 s.
		leader, err := leaderOf(ctx, c, list)
		if err != nil {
			return err
		}
		direct, err := connect(leader)
		if err != nil {
			return err
		}
		defer direct.Close()
		pctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		_, err = direct.MemberPromote(pctx, list[i].ID)
		return err
	})
}

func leaderOf(ctx context.Context, c *clientv3.Client, list []EtcdMember) (address string, err error) {
	for _, m := range list {
		if m.Learner {
			continue
		}
		sctx, cancel := context.WithTimeout(ctx, statusTimeout)
		s, serr := c.Status(sctx, clientURL(m.Address))
		cancel()
		if serr != nil {
			continue
		}
		if i := slices.IndexFunc(list, func(l EtcdMember) bool { return l.ID == s.Leader }); i >= 0 {
			return list[i].Address, nil
		}
	}
	return "", errors.New("etcd has no leader")
}

// removeMember takes a member's vote away. It refuses when the rest would be
// no majority that runs. The member's machine may be dead.
func removeMember(ctx context.Context, c *clientv3.Client, name, address string) error {
	list, err := etcdMembers(ctx, c, clientv3.WithSerializable())
	if err != nil {
		return err
	}
	i := find(list, name, address)
	if i < 0 {
		return nil
	}
	return removeListed(ctx, c, list, i, name)
}

func removeListed(ctx context.Context, c *clientv3.Client, list []EtcdMember, i int, name string) error {
	health(ctx, c, list)
	if err := guardQuorum(list, list[i].ID, name); err != nil {
		return err
	}
	return retry(ctx, func() error {
		_, err := c.MemberRemove(ctx, list[i].ID)
		if err == nil || errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil
		}
		return fmt.Errorf("removing etcd member %s: %w", name, err)
	})
}

// health asks all members for their own view.
func health(ctx context.Context, c *clientv3.Client, list []EtcdMember) {
	var wg sync.WaitGroup
	for i := range list {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, statusTimeout)
			defer cancel()
			s, err := c.Status(ctx, clientURL(list[i].Address))
			list[i].Healthy = err == nil && s.Leader != 0 && len(s.Errors) == 0
		})
	}
	wg.Wait()
}

// guardQuorum says why a member must not be removed, or nil. The removal is a
// vote of all members of now, and those that stay must be able to vote after
// it.
func guardQuorum(list []EtcdMember, removed uint64, name string) error {
	var all, alive, stay, stayAlive int
	var down []string
	for _, m := range list {
		if m.ID == removed && m.Learner {
			return nil
		}
		if m.Learner {
			continue
		}
		all++
		if m.ID != removed {
			stay++
		}
		switch {
		case !m.Healthy:
			down = append(down, m.Name)
		case m.ID != removed:
			alive, stayAlive = alive+1, stayAlive+1
		default:
			alive++
		}
	}
	switch {
	case stay == 0:
		return fmt.Errorf("%s is the last etcd member: without it the cluster's data is gone; to take the cluster down: plasmid down", name)
	case alive <= all/2 || stayAlive <= stay/2:
		return fmt.Errorf("etcd member %s can't be removed: only %d of the %d others answer, which is no majority; start or repair first: %s",
			name, stayAlive, stay, strings.Join(down, ", "))
	}
	return nil
}

// OpenStore connects to the cluster's etcd as the operator.
func (a *Access) OpenStore(ctx context.Context) (*store.Store, error) {
	members, err := a.Members()
	if err != nil {
		return nil, err
	}
	voters := map[string]string{}
	for _, m := range members {
		if m.Etcd && m.Joined {
			voters[m.Name] = m.Address
		}
	}
	return a.openStore(ctx, addresses(voters))
}
