package join

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/crypto/ssh"

	"plasmid/internal/remote"
	"plasmid/provision/plan"
	"plasmid/runtime/node"
)

// Machines is what joining needs of a provider.
type Machines interface {
	Observe(ctx context.Context) (network bool, machines []plan.Observed, err error)
	HostKey(ctx context.Context, machine string) (ssh.PublicKey, error)
}

// Joiner makes machines members of one cluster.
type Joiner struct {
	Access   *Access
	Cluster  string
	Lease    time.Duration
	Reboot   map[string]*node.Reboot // by node group; nil: only when an operator says so
	Machines Machines
	// Wanted are all machines that the cluster is to have: the first etcd
	// members must know of each other before any of them runs.
	Wanted []plan.Machine

	// Gates says that machines are reached from outside by SSH alone, and those
	// without a public address by way of those that have one.
	Gates bool

	gating  sync.Mutex // over looking for the first gate
	mu      sync.Mutex // over members.json; never held while waiting for a machine
	secured sync.Mutex // over making the new etcd ours
}

// Deadlines of the parts of joining.
const (
	// bootTimeout is until a machine lets us log in: without KVM, minutes.
	bootTimeout = 15 * time.Minute
	etcdTimeout = 2 * time.Minute
	apiTimeout  = time.Minute
)

// Members lists the machines that were joined, or began to be.
func (j *Joiner) Members(context.Context) ([]plan.Member, error) {
	members, err := j.Access.Members()
	if err != nil {
		return nil, err
	}
	var out []plan.Member
	for _, m := range members {
		if m.Joined {
			out = append(out, plan.Member{Name: m.Name, Etcd: m.Etcd, Spec: m.Spec})
		}
	}
	return out, nil
}

// Do carries out a step of kind member.
func (j *Joiner) Do(ctx context.Context, s plan.Step) error {
	if s.Action == plan.Delete {
		return j.leave(ctx, s.Name)
	}
	return j.join(ctx, *s.Machine)
}

// update changes one member's entry under the lock.
func (j *Joiner) update(name string, f func(*Member)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	members, err := j.Access.Members()
	if err != nil {
		return err
	}
	m := members[name]
	m.Name = name
	f(&m)
	members[name] = m
	return j.Access.saveMembers(members)
}

// roster is who the etcd members are.
type roster struct {
	bootstrap bool              // none of them was ever up
	initial   map[string]string // name to address of those that start together
	voters    map[string]string // of those that are joined
	endpoints map[string]string // of all that vote or are about to
}

// roster decides, once and for good, which members start the cluster.
func (j *Joiner) roster(ctx context.Context) (roster, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	members, err := j.Access.Members()
	if err != nil {
		return roster{}, err
	}
	r := roster{bootstrap: true, initial: map[string]string{}, voters: map[string]string{}, endpoints: map[string]string{}}
	for _, m := range members {
		if m.Etcd && m.Joined {
			r.bootstrap = false
			r.voters[m.Name] = m.Address
		}
		if m.Initial {
			r.initial[m.Name] = m.Address
		}
		// While the first members come up side by side some are joined before
		// others; each is told of all.
		if m.Etcd && (m.Joined || m.Initial) {
			r.endpoints[m.Name] = m.Address
		}
	}
	if len(r.initial) > 0 || !r.bootstrap {
		return r, nil
	}
	_, observed, err := j.Machines.Observe(ctx)
	if err != nil {
		return r, err
	}
	for _, w := range j.Wanted {
		if !w.Etcd {
			continue
		}
		i := slices.IndexFunc(observed, func(o plan.Observed) bool { return o.Name == w.Name })
		if i < 0 {
			return r, fmt.Errorf("machine %s is to be one of the first etcd members, but is not there", w.Name)
		}
		r.initial[w.Name] = observed[i].PrivateIPv4
		r.endpoints[w.Name] = observed[i].PrivateIPv4
		members[w.Name] = Member{Name: w.Name, Address: observed[i].PrivateIPv4, Etcd: true, Initial: true}
	}
	return r, j.Access.saveMembers(members)
}

func addresses(m map[string]string) []string {
	var as []string
	for _, a := range m {
		as = append(as, a)
	}
	slices.Sort(as)
	return as
}

// join makes one machine a member. Every part of it can be done again.
func (j *Joiner) join(ctx context.Context, m plan.Machine) error {
	r, err := j.roster(ctx)
	if err != nil {
		return err
	}
	at, err := j.observed(ctx, m.Name)
	if err != nil {
		return err
	}
	conn, err := j.logIn(ctx, at)
	if err != nil {
		return err
	}
	defer conn.Close()
	requests, err := ask[node.Requests](ctx, conn, "plasmidd csr", nil)
	if err != nil {
		return err
	}
	before, err := j.member(m.Name)
	if err != nil {
		return err
	}
	if err := j.update(m.Name, func(e *Member) { e.MachineID, e.Address, e.Etcd = requests.MachineID, at.PrivateIPv4, m.Etcd }); err != nil {
		return err
	}
	// A first member that did not get ready then still starts as one: the
	// others have counted it in.
	first := before.Initial && !before.Joined && m.Etcd
	votes := before.Joined && before.Etcd
	hasVote := votes && requests.EtcdData // else its disk was lost
	var etcd map[string]string
	switch {
	case m.Etcd && first:
		etcd = node.EtcdEnvironment(m.Name, at.PrivateIPv4, r.initial, j.Access.Token, true)
	case m.Etcd && !hasVote:
		if etcd, err = j.addVoter(ctx, conn, m, at.PrivateIPv4, requests.EtcdData, r); err != nil {
			return err
		}
	case !m.Etcd && votes:
		if err := j.retire(ctx, conn, m.Name, at.PrivateIPv4, r); err != nil {
			return err
		}
	}
	endpoints := maps.Clone(r.endpoints)
	if !m.Etcd {
		delete(endpoints, m.Name)
	}
	bundle, err := j.bundle(m, at, requests, etcd, addresses(endpoints))
	if err != nil {
		return err
	}
	if _, err := ask[node.Outcome](ctx, conn, "plasmidd configure", bundle); err != nil {
		return err
	}
	if etcd != nil {
		if err := j.settleEtcd(ctx, m, at.PrivateIPv4, first, addresses(endpoints)); err != nil {
			return err
		}
	}
	if err := j.awaitAPI(ctx, conn, at.PrivateIPv4); err != nil {
		return err
	}
	if err := j.forgetFormer(ctx, m.Name, requests.MachineID, at.PrivateIPv4, addresses(endpoints)); err != nil {
		return err
	}
	return j.update(m.Name, func(e *Member) { e.Joined, e.Spec = true, m.Spec() })
}

func (j *Joiner) observed(ctx context.Context, name string) (plan.Observed, error) {
	_, machines, err := j.Machines.Observe(ctx)
	if err != nil {
		return plan.Observed{}, err
	}
	for _, o := range machines {
		if o.Name == name {
			return o, nil
		}
	}
	return plan.Observed{}, fmt.Errorf("machine %s is not there", name)
}

// logIn connects as soon as the machine has booted.
func (j *Joiner) logIn(ctx context.Context, at plan.Observed) (*remote.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if j.Gates && at.PublicIPv4 != "" {
		return j.logInFromOutside(ctx, at)
	}
	if j.Gates {
		if err := j.openGates(ctx); err != nil {
			return nil, err
		}
	}
	pinned, err := j.pin(ctx, at.Name, at.PrivateIPv4)
	if err != nil {
		return nil, err
	}
	return j.Access.connect(ctx, at.Name, net.JoinHostPort(at.PrivateIPv4, sshPort), pinned, j.Access.DialContext)
}

// ask runs a command that reads and writes JSON.
func ask[T any](ctx context.Context, c *remote.Conn, command string, in any) (T, error) {
	var out T
	var stdin io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return out, err
		}
		stdin = bytes.NewReader(data)
	}
	data, err := c.Run(ctx, command, stdin)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return out, fmt.Errorf("%s on machine %s answered %q: %w", command, c.Name, data, err)
	}
	return out, nil
}

func (j *Joiner) bundle(m plan.Machine, at plan.Observed, r node.Requests, etcd map[string]string, endpoints []string) (node.Bundle, error) {
	ips := []string{at.PrivateIPv4, "127.0.0.1"}
	if at.PublicIPv4 != "" && at.PublicIPv4 != at.PrivateIPv4 {
		ips = append(ips, at.PublicIPv4)
	}
	b := node.Bundle{CA: string(j.Access.CA()), Etcd: etcd, Config: node.Config{
		Cluster: j.Cluster, Name: m.Name, Group: m.Group, PrivateIPv4: at.PrivateIPv4, PublicIPv4: at.PublicIPv4,
		Metadata: m.Metadata, LeaseSeconds: int(j.Lease / time.Second), Reboot: j.Reboot[m.Group],
	}}
	for _, e := range endpoints {
		b.Config.EtcdEndpoints = append(b.Config.EtcdEndpoints, "https://"+e+":2379")
	}
	var err error
	if b.NodeCert, err = j.Access.SignRequest(r.Node, r.NodeCert, Identity{Name: nodeUser, Role: RoleNode, DNS: []string{m.Name}, IPs: ips, Server: true}); err != nil {
		return b, err
	}
	b.EtcdCert, err = j.Access.SignRequest(r.Etcd, r.EtcdCert, Identity{Name: node.EtcdPeerName, Role: RoleNode, DNS: []string{m.Name, "localhost"}, IPs: ips, Server: true})
	return b, err
}

// addVoter announces a later member to etcd and returns its configuration.
func (j *Joiner) addVoter(ctx context.Context, conn *remote.Conn, m plan.Machine, address string, hasData bool, r roster) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	others := maps.Clone(r.voters)
	delete(others, m.Name)
	if len(others) == 0 {
		return nil, fmt.Errorf("%s was the only etcd member and has lost its data; run plasmid down and plasmid up to start over", m.Name)
	}
	s, err := j.Access.openStore(ctx, addresses(others))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	reset, cluster, err := addLearner(ctx, s.Client(), m.Name, address, hasData)
	if err != nil {
		return nil, err
	}
	if reset {
		if err := forgetEtcd(ctx, conn); err != nil {
			return nil, err
		}
	}
	return node.EtcdEnvironment(m.Name, address, cluster, j.Access.Token, false), nil
}

func (j *Joiner) member(name string) (Member, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	members, err := j.Access.Members()
	return members[name], err
}

// retire takes a machine's vote away and stops its etcd.
func (j *Joiner) retire(ctx context.Context, conn *remote.Conn, name, address string, r roster) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	others := maps.Clone(r.voters)
	delete(others, name)
	s, err := j.Access.openStore(ctx, addresses(others))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := removeMember(ctx, s.Client(), name, address); err != nil {
		return err
	}
	return forgetEtcd(ctx, conn)
}

// forgetEtcd stops a machine's etcd and removes its data.
func forgetEtcd(ctx context.Context, conn *remote.Conn) error {
	if _, err := conn.Run(ctx, "systemctl disable --now etcd", nil); err != nil {
		return err
	}
	_, err := conn.Run(ctx, "rm -rf "+node.EtcdDataDir, nil)
	return err
}

// settleEtcd waits until etcd is as it should be with this machine: the first
// members form the cluster and make it ours, a later one gets its vote.
func (j *Joiner) settleEtcd(ctx context.Context, m plan.Machine, address string, first bool, endpoints []string) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	s, err := j.Access.openStore(ctx, endpoints)
	if err != nil {
		return err
	}
	defer s.Close()
	if !first {
		return promote(ctx, s.Client(), m.Name, address, func(leader string) (*clientv3.Client, error) {
			return clientv3.New(clientv3.Config{Endpoints: []string{clientURL(leader)}, TLS: j.Access.ClientTLS(), Logger: zap.NewNop(), DialOptions: j.Access.etcdOptions()})
		})
	}
	if err := retry(ctx, func() error { return s.Ping(ctx) }); err != nil {
		return fmt.Errorf("the first etcd members do not form a cluster: %w; look at: journalctl -u etcd on %s", err, m.Name)
	}
	// The first members come here side by side; one at a time is enough.
	j.secured.Lock()
	defer j.secured.Unlock()
	if _, err := s.Init(ctx, j.Cluster); err != nil {
		return err
	}
	return secure(ctx, s.Client())
}

// awaitAPI waits until plasmidd answers, and tells its last words if not.
func (j *Joiner) awaitAPI(ctx context.Context, conn *remote.Conn, address string) error {
	wait, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: j.Access.ClientTLS(), DialContext: j.Access.DialContext}, Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	url := "https://" + net.JoinHostPort(address, strconv.Itoa(node.APIPort)) + "/plasmid/v1/health"
	err := retry(wait, func() error {
		req, err := http.NewRequestWithContext(wait, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return nil
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	words, _ := conn.Run(ctx, "journalctl -u plasmidd -n 10 --no-pager -o cat", nil)
	return fmt.Errorf("plasmidd on machine %s does not come up: %w; its last words:\n%s", conn.Name, err, words)
}

// leave takes a machine out of the cluster: its units first, then its vote, then
// its place in the store.
func (j *Joiner) leave(ctx context.Context, name string) error {
	members, err := j.Access.Members()
	if err != nil {
		return err
	}
	m, ok := members[name]
	if !ok {
		return nil
	}
	voters := map[string]string{}
	for _, o := range members {
		if o.Etcd && o.Joined && o.Name != name {
			voters[o.Name] = o.Address
		}
	}
	if len(voters) == 0 {
		return errors.New(name + " is the last etcd member: without it the cluster's data is gone; to take the cluster down: plasmid down")
	}
	if err := j.drain(ctx, m); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	s, err := j.Access.openStore(ctx, addresses(voters))
	if err != nil {
		return err
	}
	defer s.Close()
	if m.Etcd {
		if err := removeMember(ctx, s.Client(), name, m.Address); err != nil {
			return err
		}
	}
	if m.MachineID != "" {
		// The leader may just have been removed: there is a new one soon.
		if err := retry(ctx, func() error { return s.ForgetMachine(ctx, m.MachineID) }); err != nil {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if members, err = j.Access.Members(); err != nil {
		return err
	}
	delete(members, name)
	return errors.Join(j.Access.saveMembers(members), j.Access.keepGates(name, nil))
}

// Endpoints are where the cluster's API answers.
func (a *Access) Endpoints() ([]string, error) {
	members, err := a.Members()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range members {
		if m.Joined {
			out = append(out, net.JoinHostPort(m.Address, strconv.Itoa(node.APIPort)))
		}
	}
	slices.Sort(out)
	return out, nil
}
