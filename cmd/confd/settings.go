package main

import (
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
	scheme   string
	confdir  string
	prefix   string
	interval time.Duration

	srvDomain, srvRecord string
	files                list
	filter               string

	onetime, watch, noop, syncOnly, keepStageFile, diff, version bool

	cert, key, ca      string
	insecure           bool
	username, password string
	level              slog.Level
	metrics            string
	warnings           []string
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
	table
	// confd 0.3 had all of it in a table, and its users gave template resources
	// as configuration files too: what is in them is read from conf.d.
	Confd    table          `toml:"confd"`
	Template map[string]any `toml:"template"`
}

type table struct {
	Backend      *string  `toml:"backend"`
	Nodes        []string `toml:"nodes"`
	EtcdNodes    []string `toml:"etcd_nodes"`
	ConfDir      *string  `toml:"confdir"`
	Prefix       *string  `toml:"prefix"`
	Interval     *int     `toml:"interval"` // seconds
	Watch        *bool    `toml:"watch"`
	Noop         *bool    `toml:"noop"`
	SyncOnly     *bool    `toml:"sync-only"`
	Diff         *bool    `toml:"diff"`
	LogLevel     *string  `toml:"log-level"`
	ClientCert   *string  `toml:"client_cert"`
	ClientKey    *string  `toml:"client_key"`
	ClientCAKeys *string  `toml:"client_cakeys"`
	Insecure     *bool    `toml:"client_insecure"`
	BasicAuth    *bool    `toml:"basic_auth"`
	Username     *string  `toml:"username"`
	Password     *string  `toml:"password"`
	Scheme       *string  `toml:"scheme"`
	EtcdScheme   *string  `toml:"etcd_scheme"`
	SRVDomain    *string  `toml:"srv_domain"`
	SRVRecord    *string  `toml:"srv_record"`
	File         []string `toml:"file"`
	Filter       *string  `toml:"filter"`
	Metrics      *string  `toml:"metrics"`
}

const defaultConfigFile = "/etc/confd/confd.toml"

const usage = `usage: confd [flags]
       confd validate [flags]

Renders files from the keys of etcd, environment variables or files, checks
them, puts them in place and has their user reload them.

  confd -onetime -node 10.0.0.1:2379            once; exit 1 if anything failed
  confd -watch -node 10.0.0.1:2379              whenever keys change
  confd -onetime -noop -diff -backend env       show what would change
  confd validate -confdir . -sample keys.yaml   check templates offline

`

func parseSettings(args []string, stderr io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("confd", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, usage); f.PrintDefaults() }
	backend := f.String("backend", "etcd", "where keys come from: etcd, env or file")
	configFile := f.String("config-file", defaultConfigFile, "the configuration `file`")
	confdir := f.String("confdir", "/etc/confd", "`directory` with conf.d and templates")
	prefix := f.String("prefix", "", "`path` put before every key")
	interval := f.Int("interval", 600, "`seconds` between two rounds; with -watch the keys are read so often in any case")
	scheme := f.String("scheme", "http", "scheme of nodes given without one: http or https")
	f.StringVar(scheme, "etcd-scheme", "http", "the same as -scheme")
	level := f.String("log-level", "info", "least `level` that is logged: debug, info, warn, error")
	debug := f.Bool("debug", false, "the same as -log-level debug")
	verbose := f.Bool("verbose", false, "the same as -log-level info")
	quiet := f.Bool("quiet", false, "the same as -log-level error")
	cert := f.String("client-cert", "", "client certificate `file`")
	key := f.String("client-key", "", "client key `file`")
	ca := f.String("client-ca-keys", "", "`file` of the authority that signed the nodes' certificates")
	username := f.String("username", "", "user `name`, with -basic-auth")
	password := f.String("password", "", "password, with -basic-auth; others see it here, CONFD_PASSWORD is better")
	basic := f.Bool("basic-auth", false, "log in with -username and the password in CONFD_PASSWORD")
	insecure := f.Bool("client-insecure", false, "do not check the nodes' certificates")
	f.BoolVar(&s.onetime, "onetime", false, "run once and exit; exit 1 if any resource failed")
	f.BoolVar(&s.keepStageFile, "keep-stage-file", false, "leave staged files beside their destination")
	watch := f.Bool("watch", false, "render when keys change")
	noop := f.Bool("noop", false, "say what would change, change nothing")
	syncOnly := f.Bool("sync-only", false, "put files in place without check and reload commands")
	diff := f.Bool("diff", false, "print what changes in files, or would with -noop")
	srvDomain := f.String("srv-domain", "", "`domain` whose _etcd._tcp SRV record names the nodes")
	srvRecord := f.String("srv-record", "", "SRV `record` that names the nodes")
	filter := f.String("filter", "*", "`glob` of the names of files in directories given with -file")
	metrics := f.String("metrics", "", "`address` to serve Prometheus metrics at, such as 127.0.0.1:9100")
	f.BoolVar(&s.version, "version", false, "print the version and exit")
	f.Var(&s.nodes, "node", "`address` of an etcd node; may be repeated")
	f.Var(&s.files, "file", "YAML or JSON `file`, or directory of such, with keys; may be repeated")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; see confd -help", f.Arg(0))
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })

	conf, err := s.readFile(*configFile, given["config-file"])
	if err != nil {
		return nil, err
	}
	s.backend = pick(given["backend"], *backend, "", conf.Backend)
	s.confdir = pick(given["confdir"], *confdir, "", conf.ConfDir)
	s.prefix = pick(given["prefix"], *prefix, "", conf.Prefix)
	s.scheme = pick(given["scheme"] || given["etcd-scheme"], *scheme, "", conf.Scheme)
	s.cert = pick(given["client-cert"], *cert, os.Getenv("CONFD_CLIENT_CERT"), conf.ClientCert)
	s.key = pick(given["client-key"], *key, os.Getenv("CONFD_CLIENT_KEY"), conf.ClientKey)
	s.ca = pick(given["client-ca-keys"], *ca, os.Getenv("CONFD_CLIENT_CAKEYS"), conf.ClientCAKeys)
	s.insecure = pick(given["client-insecure"], *insecure, false, conf.Insecure)
	s.watch = pick(given["watch"], *watch, false, conf.Watch)
	s.noop = pick(given["noop"], *noop, false, conf.Noop)
	s.syncOnly = pick(given["sync-only"], *syncOnly, false, conf.SyncOnly)
	s.diff = pick(given["diff"], *diff, false, conf.Diff)
	s.srvDomain = pick(given["srv-domain"], *srvDomain, "", conf.SRVDomain)
	s.srvRecord = pick(given["srv-record"], *srvRecord, "", conf.SRVRecord)
	s.filter = pick(given["filter"], *filter, "", conf.Filter)
	s.metrics = pick(given["metrics"], *metrics, "", conf.Metrics)
	s.interval = time.Duration(pick(given["interval"], *interval, 0, conf.Interval)) * time.Second
	if pick(given["basic-auth"], *basic, false, conf.BasicAuth) || conf.BasicAuth == nil && conf.Password != nil {
		s.username = pick(given["username"], *username, "", conf.Username)
		s.password = pick(given["password"], *password, os.Getenv("CONFD_PASSWORD"), conf.Password)
	}
	if given["password"] {
		s.warnings = append(s.warnings, "a password among the arguments can be seen by everybody on this machine; set CONFD_PASSWORD instead")
	}
	if len(s.nodes) == 0 {
		s.nodes = conf.Nodes
	}
	if len(s.files) == 0 {
		s.files = conf.File
	}
	switch {
	case *debug:
		*level, given["log-level"] = "debug", true
	case *verbose:
		*level, given["log-level"] = "info", true
	case *quiet:
		*level, given["log-level"] = "error", true
	}
	if s.level, err = parseLevel(pick(given["log-level"], *level, "", conf.LogLevel)); err != nil {
		return nil, err
	}
	if s.version {
		return s, nil
	}
	return s, s.check()
}

// parseLevel knows slog's levels and those that confd had besides.
func parseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "warning":
		s = "warn"
	case "fatal", "panic":
		s = "error"
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return l, fmt.Errorf("log level %q is none of debug, info, warn, error", s)
	}
	return l, nil
}

func (s *settings) check() error {
	switch {
	case s.backend != "etcd" && s.backend != "etcdv3" && s.backend != "env" && s.backend != "file":
		return fmt.Errorf("backend %q is none of etcd, etcdv3, env, file", s.backend)
	case s.backend == "file" && len(s.files) == 0:
		return errors.New("backend file needs -file")
	case s.scheme != "http" && s.scheme != "https":
		return fmt.Errorf("scheme %q is neither http nor https", s.scheme)
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

// readFile reads the configuration file. A setting that it does not know is
// warned of, not refused: the confd of old took such files.
func (s *settings) readFile(name string, mustExist bool) (table, error) {
	var c file
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !mustExist {
		return table{}, nil
	}
	if err != nil {
		return table{}, err
	}
	var strict *toml.StrictMissingError
	var decode *toml.DecodeError
	// What is in the table of old is the default of what is at the top.
	old := struct {
		Confd *table `toml:"confd"`
	}{&c.table}
	_ = toml.Unmarshal(data, &old) // its errors come again below
	err = toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(&c)
	switch {
	case errors.As(err, &strict):
		for _, e := range strict.Errors {
			line, _ := e.Position()
			s.warnings = append(s.warnings, fmt.Sprintf("%s: line %d: unknown setting %s is ignored", name, line, strings.Join(e.Key(), ".")))
		}
	case errors.As(err, &decode):
		line, _ := decode.Position()
		return table{}, fmt.Errorf("%s: line %d: %w", name, line, err)
	case err != nil:
		return table{}, fmt.Errorf("%s: %w", name, err)
	}
	if len(c.Nodes) == 0 {
		c.Nodes = c.EtcdNodes
	}
	if c.Scheme == nil {
		c.Scheme = c.EtcdScheme
	}
	return c.table, nil
}
