package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"plasmid/test/lab/openstack/conf"
)

// service is a program that runs as long as the lab does.
type service struct {
	name  string
	cmd   command
	needs []string // services that are ready before it starts
	// ready is asked until it returns no error. Services that others find out
	// about by their heartbeats have none.
	ready func(context.Context) error
	beats string // the binary whose heartbeat says that it is ready
}

// patience is how long a service may take to be ready. Two busy cores need
// less than a fifth of it.
const patience = 3 * time.Minute

// interval of the questions whether a service is ready.
const interval = 150 * time.Millisecond

// wsgi is how the services without a server of their own are served: in one
// process, since what Keystone remembers is not shared.
func wsgi(port int, file string) command {
	return command{argv: []string{"uwsgi_python3", "--http-socket", fmt.Sprintf("%s:%d", conf.IP, port),
		"--buffer-size", "65535", "--rem-header", "Content-Length",
		"--add-header", "Connection: close", // it does close it, and clients that don't know send their next call there
		"--master", "--plugins", "python3", "--lazy-apps",
		"--no-orphans", "--die-on-term", "--enable-threads", "--listen", "100",
		"--processes", "1", "--threads", "8", "--wsgi-file", file}}
}

const neutronConf = "--config-file=/etc/neutron/neutron.conf"

func agent(name, file string) service {
	return service{name: name, beats: name, needs: []string{"neutron-server", "rabbitmq"},
		cmd: command{argv: []string{name, neutronConf, "--config-file=/etc/neutron/" + file}}}
}

// services are those of a tier, in an order in which each one's needs come
// before it.
func services(tier conf.Tier) []service {
	nova := func(name string) service {
		return service{name: name, beats: name, needs: []string{"mariadb", "rabbitmq", "keystone"},
			cmd: command{argv: []string{name, "--config-file=/etc/nova/nova.conf"}}}
	}
	api := nova("nova-api")
	api.beats, api.ready = "", answers(8774)
	compute := nova("nova-compute")
	compute.cmd.argv = append(compute.cmd.argv, "--config-file=/etc/nova/nova-compute.conf")
	compute.needs = []string{"nova-api", "nova-conductor", "placement", "neutron-server"}
	all := []service{
		{name: "mariadb", cmd: command{argv: []string{"mariadbd", "--user=mysql"}}, ready: dials("unix", "/run/mysqld/mysqld.sock")},
		{name: "rabbitmq", cmd: command{argv: []string{"/usr/lib/rabbitmq/bin/rabbitmq-server"}, user: "rabbitmq"}, ready: dials("tcp", "127.0.0.1:5672")},
		{name: "keystone", cmd: wsgi(5000, "/usr/bin/keystone-wsgi-public"), needs: []string{"mariadb"}, ready: answers(5000)},
		{name: "placement", cmd: wsgi(8778, "/usr/bin/placement-api"), needs: []string{"mariadb", "keystone"}, ready: answers(8778)},
		{name: "glance-api", cmd: command{argv: []string{"glance-api", "--config-file=/etc/glance/glance-api.conf"}},
			needs: []string{"mariadb", "keystone"}, ready: answers(9292)},
		api, nova("nova-conductor"), nova("nova-scheduler"),
		{name: "neutron-server", cmd: command{argv: []string{"neutron-server", neutronConf, "--config-file=/etc/neutron/plugins/ml2/ml2_conf.ini"}},
			needs: []string{"mariadb", "rabbitmq", "keystone"}, ready: answers(9696)},
		agent("neutron-linuxbridge-agent", "plugins/ml2/linuxbridge_agent.ini"),
		agent("neutron-l3-agent", "l3_agent.ini"),
		agent("neutron-dhcp-agent", "dhcp_agent.ini"),
		agent("neutron-metadata-agent", "metadata_agent.ini"),
	}
	if tier != conf.Fake {
		all = append(all, service{name: "libvirtd", cmd: command{argv: []string{"libvirtd"}}, ready: dials("unix", "/run/libvirt/libvirt-sock")})
		compute.needs = append(compute.needs, "libvirtd")
	}
	return append(all, compute)
}

// dials is whether somebody listens.
func dials(network, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, address)
		if err == nil {
			c.Close()
		}
		return err
	}
}

// answers is whether an API says what versions it has.
func answers(port int) func(context.Context) error {
	url := fmt.Sprintf("http://%s:%d/", conf.IP, port)
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode >= 500 {
			return fmt.Errorf("%s says %s", url, resp.Status)
		}
		return nil
	}
}

// lab is a set of services that run.
type lab struct {
	*supervisor
	report  *reporter
	heart   func(context.Context) (map[string]time.Time, error)
	running map[string]*process
	ends    sync.WaitGroup // of what tells that a service has ended
}

// bringUp starts services, each as soon as those that it needs are ready, and
// returns when all are. The first that fails ends the wait.
func (l *lab) bringUp(ctx context.Context, all []service) error {
	ready := map[string]chan struct{}{}
	var missing []service
	for _, s := range all {
		ready[s.name] = make(chan struct{})
		if l.running[s.name] != nil {
			close(ready[s.name])
		} else {
			missing = append(missing, s)
		}
	}
	pulse := &pulse{ask: l.heart, turn: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range missing {
		g.Go(func() error {
			for _, n := range s.needs {
				select {
				case <-ready[n]:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if err := l.startService(ctx, s, pulse); err != nil {
				return err
			}
			close(ready[s.name])
			return nil
		})
	}
	return g.Wait()
}

func (l *lab) startService(ctx context.Context, s service, pulse *pulse) error {
	began := time.Now()
	p, err := l.start(s.name, s.cmd)
	if err != nil {
		return &failure{Service: s.name, What: "could not be started: " + err.Error()}
	}
	l.mu.Lock()
	l.running[s.name] = p
	l.mu.Unlock()
	question := s.ready
	if s.beats != "" {
		question = func(ctx context.Context) error { return pulse.since(ctx, s.beats, began) }
	}
	deadline := time.After(patience)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := question(ctx)
		if err == nil {
			break
		}
		select {
		case <-p.done:
			return l.failure(s.name, ended(p.status)+" before it was ready")
		case <-deadline:
			return l.failure(s.name, fmt.Sprintf("was not ready after %v (%v)", patience, err))
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	l.report.tell(event{Service: s.name, State: "ready", Seconds: time.Since(began).Seconds()})
	l.ends.Go(func() {
		<-p.done
		l.report.tell(event{Service: s.name, State: ended(p.status)})
	})
	return nil
}

// pulse asks for all heartbeats at once, however many services wait for
// theirs, and at most once a second.
type pulse struct {
	ask   func(context.Context) (map[string]time.Time, error)
	turn  chan struct{}
	asked time.Time
	beats map[string]time.Time
	err   error
}

// since is nil if the named service was heard of after the given time. What
// the database remembers of an earlier run doesn't count.
func (p *pulse) since(ctx context.Context, name string, t time.Time) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if time.Since(p.asked) > time.Second {
		p.beats, p.err = p.ask(ctx)
		p.asked = time.Now()
	}
	if p.err != nil {
		return p.err
	}
	// Heartbeats are in whole seconds.
	if beat, ok := p.beats[name]; !ok || beat.Before(t.Truncate(time.Second)) {
		return errors.New("no heartbeat yet")
	}
	return nil
}

// names are those of services, for people.
func names(all []service) string {
	var n []string
	for _, s := range all {
		n = append(n, s.name)
	}
	return strings.Join(n, ", ")
}
