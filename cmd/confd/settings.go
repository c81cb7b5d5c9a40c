package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// settings come from flags, which win over the environment, which wins over
// the configuration file, which wins over the defaults.
type settings struct {
	backend  string
	nodes    list
	confdir  string
	prefix   string
	interval time.Duration

	onetime, watch, noop, syncOnly, keepStageFile, version bool

	cert, key, ca      string
	insecure           bool
	username, password string
	level              slog.Level
}

type list []string

func (l *list) String() string { return strings.Join(*l, ",") }
func (l *list) Set(s string) error {
	for _, v := range strings.Split(s, ",") {
		if v = strings.TrimSpace(v); v != "" {
			*l = append(*l, v)
		}
	}
	return nil
}

// file is what confd.toml may set.
type file struct {
	Backend      *string  `toml:"backend"`
	Nodes        []string `toml:"nodes"`
	ConfDir      *string  `toml:"confdir"`
	Prefix       *string  `toml:"prefix"`
	Interval     *int     `toml:"interval"` // seconds
	Watch        *bool    `toml:"watch"`
	Noop         *bool    `toml:"noop"`
	SyncOnly     *bool    `toml:"sync-only"`
	LogLevel     *string  `toml:"log-level"`
	ClientCert   *string  `toml:"client_cert"`
	ClientKey    *string  `toml:"client_key"`
	ClientCAKeys *string  `toml:"client_cakeys"`
	Username     *string  `toml:"username"`
	Password     *string  `toml:"password"`
	Scheme       *string  `toml:"scheme"`
}

const defaultConfigFile = "/etc/confd/confd.toml"

func parseSettings(args []string, stderr io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("confd", flag.ContinueOnError)
	f.SetOutput(stderr)
	backend := f.String("backend", "etcd", "where keys come from: etcd or env")
	configFile := f.String("config-file", defaultConfigFile, "the configuration `file`")
	confdir := f.String("confdir", "/etc/confd", "`directory` with conf.d and templates")
	prefix := f.String("prefix", "", "`path` put before every key")
	interval := f.Int("interval", 600, "`seconds` between two rounds")
	scheme := f.String("scheme", "http", "scheme of nodes given without one: http or https")
	level := f.String("log-level", "info", "least `level` that is logged: debug, info, warn, error")
	cert := f.String("client-cert", "", "client certificate `file`")
	key := f.String("client-key", "", "client key `file`")
	ca := f.String("client-ca-keys", "", "`file` of the authority that signed the nodes' certificates")
	username := f.String("username", "", "user `name`, with -basic-auth")
	basic := f.Bool("basic-auth", false, "log in with -username and the password in CONFD_PASSWORD")
	f.BoolVar(&s.insecure, "client-insecure", false, "do not check the nodes' certificates")
	f.BoolVar(&s.onetime, "onetime", false, "run once and exit; exit 1 if any resource failed")
	f.BoolVar(&s.keepStageFile, "keep-stage-file", false, "leave staged files beside their destination")
	watch := f.Bool("watch", false, "render when keys change")
	noop := f.Bool("noop", false, "say what would change, change nothing")
	syncOnly := f.Bool("sync-only", false, "put files in place without check and reload commands")
	f.BoolVar(&s.version, "version", false, "print the version and exit")
	f.Var(&s.nodes, "node", "`address` of an etcd node; may be repeated")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; see confd -help", f.Arg(0))
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })

	conf, err := readFile(*configFile, given["config-file"])
	if err != nil {
		return nil, err
	}
	s.backend = pick(given["backend"], *backend, "", conf.Backend)
	s.confdir = pick(given["confdir"], *confdir, "", conf.ConfDir)
	s.prefix = pick(given["prefix"], *prefix, "", conf.Prefix)
	s.cert = pick(given["client-cert"], *cert, os.Getenv("CONFD_CLIENT_CERT"), conf.ClientCert)
	s.key = pick(given["client-key"], *key, os.Getenv("CONFD_CLIENT_KEY"), conf.ClientKey)
	s.ca = pick(given["client-ca-keys"], *ca, os.Getenv("CONFD_CLIENT_CAKEYS"), conf.ClientCAKeys)
	s.username = pick(given["username"], *username, "", conf.Username)
	s.watch = pick(given["watch"], *watch, false, conf.Watch)
	s.noop = pick(given["noop"], *noop, false, conf.Noop)
	s.syncOnly = pick(given["sync-only"], *syncOnly, false, conf.SyncOnly)
	s.interval = time.Duration(pick(given["interval"], *interval, 0, conf.Interval)) * time.Second
	if *basic || conf.Password != nil {
		s.password = pick(false, "", os.Getenv("CONFD_PASSWORD"), conf.Password)
	}
	if len(s.nodes) == 0 {
		s.nodes = conf.Nodes
	}
	if len(s.nodes) == 0 {
		s.nodes = list{"127.0.0.1:2379"}
	}
	for i, n := range s.nodes {
		if !hasScheme(n) {
			s.nodes[i] = pick(given["scheme"], *scheme, "", conf.Scheme) + "://" + n
		}
	}
	if err := s.level.UnmarshalText([]byte(pick(given["log-level"], *level, "", conf.LogLevel))); err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	return s, s.check()
}

func (s *settings) check() error {
	switch {
	case s.backend != "etcd" && s.backend != "etcdv3" && s.backend != "env":
		return fmt.Errorf("backend %q is none of etcd, etcdv3, env", s.backend)
	case s.interval <= 0:
		return errors.New("the interval must be at least one second")
	case (s.cert == "") != (s.key == ""):
		return errors.New("-client-cert and -client-key go together")
	}
	return nil
}

// pick returns the flag if it was given, else the environment's value if there
// is one, else the file's, else the flag's default.
func pick[T comparable](given bool, flagged, env T, file *T) T {
	var zero T
	switch {
	case given:
		return flagged
	case env != zero:
		return env
	case file != nil:
		return *file
	}
	return flagged
}

func readFile(name string, mustExist bool) (file, error) {
	var c file
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !mustExist {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := toml.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func hasScheme(node string) bool {
	for _, p := range []string{"http://", "https://", "unix://"} {
		if len(node) > len(p) && node[:len(p)] == p {
			return true
		}
	}
	return false
}

// tlsConfig is nil when nothing asks for TLS.
func (s *settings) tlsConfig() (*tls.Config, error) {
	if s.cert == "" && s.ca == "" && !s.insecure {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.insecure}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", s.ca)
		}
	}
	if s.cert != "" {
		// Read at every connection, so that a renewed certificate is used.
		if _, err := tls.LoadX509KeyPair(s.cert, s.key); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.cert, s.key)
			return &pair, err
		}
	}
	return c, nil
}
