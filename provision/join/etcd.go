package join

import (
	"context"
	"errors"
	"fmt"
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
	return store.Open(ctx, store.Config{Endpoints: endpoints, TLS: a.ClientTLS()})
}

const retryEvery = 200 * time.Millisecond

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
	if err := addRole(ctx, c, "app-"+app, "/apps/"+app+"/"); err != nil {
		return err
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

// etcdMember finds a member by name, or by peer address if it has not started
// and so has no name yet.
func etcdMember(ctx context.Context, c *clientv3.Client, name, address string) (id uint64, learner, found bool, err error) {
	list, err := c.MemberList(ctx)
	if err != nil {
		return 0, false, false, fmt.Errorf("listing etcd members: %w", err)
	}
	for _, m := range list.Members {
		if m.Name == name || len(m.PeerURLs) > 0 && m.PeerURLs[0] == peerURL(address) {
			return m.ID, m.IsLearner, true, nil
		}
	}
	return 0, false, false, nil
}

func peerURL(address string) string { return "https://" + address + ":2380" }

// addLearner adds a member without a vote, unless it is there already.
func addLearner(ctx context.Context, c *clientv3.Client, name, address string) error {
	_, _, found, err := etcdMember(ctx, c, name, address)
	if err != nil || found {
		return err
	}
	// etcd refuses while an election or another change is under way.
	return retry(ctx, func() error {
		_, err := c.MemberAddAsLearner(ctx, []string{peerURL(address)})
		return err
	})
}

// promote gives a learner its vote once it has caught up. It asks the leader
// itself: another member would hand the request on without saying whose it is,
// and be refused.
func (a *Access) promote(ctx context.Context, c *clientv3.Client, name, address string) error {
	return retry(ctx, func() error {
		id, learner, found, err := etcdMember(ctx, c, name, address)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("etcd member %s is missing", name)
		case !learner:
			return nil
		}
		leader, err := leaderURL(ctx, c)
		if err != nil {
			return err
		}
		s, err := store.Open(ctx, store.Config{Endpoints: []string{leader}, TLS: a.ClientTLS()})
		if err != nil {
			return err
		}
		defer s.Close()
		pctx, cancel := context.WithTimeout(ctx, store.DefaultTimeout)
		defer cancel()
		_, err = s.Client().MemberPromote(pctx, id)
		return err
	})
}

// leaderURL finds where etcd's leader serves clients.
func leaderURL(ctx context.Context, c *clientv3.Client) (string, error) {
	list, err := c.MemberList(ctx)
	if err != nil {
		return "", fmt.Errorf("listing etcd members: %w", err)
	}
	var errs []error
	for _, m := range list.Members {
		if len(m.ClientURLs) == 0 {
			continue
		}
		sctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		st, err := c.Status(sctx, m.ClientURLs[0])
		cancel()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, l := range list.Members {
			if l.ID == st.Leader && len(l.ClientURLs) > 0 {
				return l.ClientURLs[0], nil
			}
		}
	}
	return "", fmt.Errorf("etcd has no leader at the moment: %w", errors.Join(errs...))
}

// removeMember takes a member's vote away. It refuses when the rest would be
// no majority that runs.
func removeMember(ctx context.Context, c *clientv3.Client, name, address string) error {
	id, learner, found, err := etcdMember(ctx, c, name, address)
	if err != nil || !found {
		return err
	}
	if !learner {
		if err := guardQuorum(ctx, c, id, name); err != nil {
			return err
		}
	}
	// etcd refuses for some seconds after any member has come or gone.
	var refused error
	err = retry(ctx, func() error {
		_, err := c.MemberRemove(ctx, id)
		if errors.Is(err, rpctypes.ErrUnhealthy) || errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) {
			return err
		}
		refused = err
		return nil
	})
	if err = errors.Join(err, refused); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("removing etcd member %s: %w", name, err)
	}
	return nil
}

func guardQuorum(ctx context.Context, c *clientv3.Client, removed uint64, name string) error {
	list, err := c.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("listing etcd members: %w", err)
	}
	voters, healthy := 0, 0
	for _, m := range list.Members {
		if m.IsLearner || m.ID == removed {
			continue
		}
		voters++
		if len(m.ClientURLs) == 0 {
			continue
		}
		sctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		if _, err := c.Status(sctx, m.ClientURLs[0]); err == nil {
			healthy++
		}
		cancel()
	}
	switch {
	case voters == 0:
		return fmt.Errorf("%s is the last etcd member: without it the cluster's data is gone", name)
	case healthy <= voters/2:
		return fmt.Errorf("etcd member %s can't be removed: only %d of the %d others answer, which is no majority; start them first", name, healthy, voters)
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
