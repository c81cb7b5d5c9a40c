package quadlet

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// rule says what becomes of a key of [Container].
type rule struct {
	kind kind
	flag string // of docker run
	// why the key can't be honoured, and what to do, the end of a sentence
	// that begins with the key.
	why string
	// check refuses values that only Podman understands.
	check func(value string) error
}

type kind int

const (
	own    kind = iota // handled by itself
	single             // the last value counts
	each               // every value is one
	words              // every value is a list
	truth              // a flag without a value, when true
	option             // --security-opt, with the flag before the value
	refuse
)

// keys are all that podman-systemd.unit(5) documents for [Container].
var keys = map[string]rule{
	"AddCapability":   {kind: words, flag: "--cap-add"},
	"AddDevice":       {kind: each, flag: "--device", check: device},
	"AddHost":         {kind: each, flag: "--add-host"},
	"Annotation":      {kind: words, flag: "--annotation"},
	"ContainerName":   {kind: own},
	"DNS":             {kind: each, flag: "--dns"},
	"DNSOption":       {kind: each, flag: "--dns-option"},
	"DNSSearch":       {kind: each, flag: "--dns-search"},
	"DropCapability":  {kind: words, flag: "--cap-drop"},
	"Entrypoint":      {kind: single, flag: "--entrypoint", check: entrypoint},
	"Environment":     {kind: words, flag: "--env"},
	"EnvironmentFile": {kind: each, flag: "--env-file", check: absolute},
	"Exec":            {kind: own},
	"ExposeHostPort":  {kind: each, flag: "--expose"},
	"Group":           {kind: own},
	"GroupAdd":        {kind: each, flag: "--group-add", check: not("keep-groups")},

	"HealthCmd":         {kind: single, flag: "--health-cmd"},
	"HealthInterval":    {kind: single, flag: "--health-interval", check: not("disable")},
	"HealthRetries":     {kind: single, flag: "--health-retries"},
	"HealthStartPeriod": {kind: single, flag: "--health-start-period"},
	"HealthTimeout":     {kind: single, flag: "--health-timeout"},
	"HealthOnFailure":   {kind: own},

	"HostName":             {kind: single, flag: "--hostname"},
	"IP":                   {kind: single, flag: "--ip"},
	"IP6":                  {kind: single, flag: "--ip6"},
	"Image":                {kind: own},
	"Label":                {kind: words, flag: "--label"},
	"LogDriver":            {kind: single, flag: "--log-driver", check: not("passthrough", "passthrough-tty", "k8s-file")},
	"LogOpt":               {kind: each, flag: "--log-opt"},
	"Memory":               {kind: single, flag: "--memory"},
	"Mount":                {kind: each, flag: "--mount", check: mount},
	"Network":              {kind: each, flag: "--network", check: network},
	"NetworkAlias":         {kind: each, flag: "--network-alias"},
	"NoNewPrivileges":      {kind: own},
	"Notify":               {kind: own},
	"PidsLimit":            {kind: single, flag: "--pids-limit"},
	"PublishPort":          {kind: each, flag: "--publish"},
	"Pull":                 {kind: single, flag: "--pull", check: not("newer")},
	"ReadOnly":             {kind: truth, flag: "--read-only"},
	"ReadOnlyTmpfs":        {kind: own},
	"ReloadCmd":            {kind: own},
	"ReloadSignal":         {kind: own},
	"RunInit":              {kind: truth, flag: "--init"},
	"SeccompProfile":       {kind: option, flag: "seccomp="},
	"SecurityLabelDisable": {kind: own},
	"SecurityLabelLevel":   {kind: option, flag: "label=level:"},
	"SecurityLabelType":    {kind: option, flag: "label=type:"},
	"ShmSize":              {kind: single, flag: "--shm-size"},
	"StopSignal":           {kind: single, flag: "--stop-signal"},
	"StopTimeout":          {kind: own},
	"Sysctl":               {kind: words, flag: "--sysctl"},
	"Tmpfs":                {kind: each, flag: "--tmpfs"},
	"Ulimit":               {kind: each, flag: "--ulimit", check: not("host")},
	"Unmask":               {kind: own},
	"User":                 {kind: own},
	"UserNS":               {kind: single, flag: "--userns", check: only("host")},
	"Volume":               {kind: each, flag: "--volume", check: volume},
	"WorkingDir":           {kind: single, flag: "--workdir"},

	"AutoUpdate":            {kind: refuse, why: "would change the image behind the cluster's back; deploy the new image instead"},
	"CgroupsMode":           {kind: refuse, why: "is Podman's; the container is in Docker's cgroup, and Memory= and PidsLimit= hold there"},
	"ContainersConfModule":  {kind: refuse, why: "is Podman's configuration; Docker's is /etc/docker/daemon.json"},
	"EnvironmentHost":       {kind: refuse, why: "is not known to Docker; list the variables with Environment="},
	"GIDMap":                {kind: refuse, why: "needs a user namespace for each container, which Docker has not"},
	"GlobalArgs":            {kind: refuse, why: "holds arguments of podman; use the keys that docker has as well"},
	"HealthLogDestination":  {kind: refuse, why: "is not known to Docker; docker inspect shows the last results"},
	"HealthMaxLogCount":     {kind: refuse, why: "is not known to Docker; it keeps the last five results"},
	"HealthMaxLogSize":      {kind: refuse, why: "is not known to Docker; it keeps 4096 bytes of each result"},
	"HealthStartupCmd":      {kind: refuse, why: "is not known to Docker; use HealthCmd= with HealthStartPeriod="},
	"HealthStartupInterval": {kind: refuse, why: "is not known to Docker; use HealthStartPeriod="},
	"HealthStartupRetries":  {kind: refuse, why: "is not known to Docker; use HealthStartPeriod="},
	"HealthStartupSuccess":  {kind: refuse, why: "is not known to Docker; use HealthStartPeriod="},
	"HealthStartupTimeout":  {kind: refuse, why: "is not known to Docker; use HealthStartPeriod="},
	"HttpProxy":             {kind: refuse, why: "is set for all of Docker; use Environment= for this container"},
	"Mask":                  {kind: refuse, why: "is not known to Docker; mount an empty directory over the path with Tmpfs="},
	"Pod":                   {kind: refuse, why: "needs Podman; put the containers on one machine with MachineOf= and on one network with Network="},
	"PodmanArgs":            {kind: refuse, why: "holds arguments of podman; use the keys that docker has as well"},
	"Retry":                 {kind: refuse, why: "is not known to Docker; use Restart=on-failure in [Service]"},
	"RetryDelay":            {kind: refuse, why: "is not known to Docker; use RestartSec= in [Service]"},
	"Rootfs":                {kind: refuse, why: "is not known to Docker; make an image of the directory"},
	"Secret":                {kind: refuse, why: "needs Podman's secrets; use EnvironmentFile= or Volume= with a file that is on the machine"},
	"SecurityLabelFileType": {kind: refuse, why: "is not known to Docker; use SecurityLabelType="},
	"SecurityLabelNested":   {kind: refuse, why: "is not known to Docker; use SecurityLabelDisable=true"},
	"ServiceName":           {kind: refuse, why: "would give the unit another name than the cluster knows; rename the file"},
	"StartWithPod":          {kind: refuse, why: "needs Podman's pods"},
	"SubGIDMap":             {kind: refuse, why: "needs a user namespace for each container, which Docker has not"},
	"SubUIDMap":             {kind: refuse, why: "needs a user namespace for each container, which Docker has not"},
	"Timezone":              {kind: refuse, why: "is not known to Docker; use Environment=TZ=Europe/Berlin, or Volume=/etc/localtime:/etc/localtime:ro for the machine's own"},
	"UIDMap":                {kind: refuse, why: "needs a user namespace for each container, which Docker has not"},
}

func device(v string) error {
	if strings.HasPrefix(v, "-") {
		return fmt.Errorf("%s: Docker can't leave out a device that does not exist; choose the machine with MachineMetadata=", v)
	}
	return nil
}

func absolute(v string) error {
	if !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "%") {
		return fmt.Errorf("%s is relative to a unit file, which is not on the machine; give the whole path of a file there", v)
	}
	return nil
}

func entrypoint(v string) error {
	if strings.HasPrefix(v, "[") {
		return fmt.Errorf("%s: docker run takes a program only; put its arguments into Exec=", v)
	}
	return nil
}

func not(values ...string) func(string) error {
	return func(v string) error {
		if slices.Contains(values, v) {
			return fmt.Errorf("%s is Podman's and not known to Docker", v)
		}
		return nil
	}
}

func only(value string) func(string) error {
	return func(v string) error {
		if v != value {
			return fmt.Errorf("%s is Podman's; Docker knows %s", v, value)
		}
		return nil
	}
}

// other refuses the name of another Quadlet file.
func other(name string, types ...string) error {
	for _, t := range types {
		if path.Ext(name) == "."+t {
			return fmt.Errorf("%s is another Quadlet file; make the %s with docker %s create, in an ExecStartPre= of [Service] say, and give its name", name, t, t)
		}
	}
	return nil
}

func network(v string) error {
	name, _, _ := strings.Cut(v, ":")
	for _, podmans := range []string{"pasta", "slirp4netns", "private", "ns", "path"} {
		if name == podmans {
			return fmt.Errorf("%s is Podman's; Docker knows bridge, host, none, container:NAME and names of networks", v)
		}
	}
	if path.Ext(name) == ".container" {
		return fmt.Errorf("%s is another Quadlet file; use container:NAME, and MachineOf= to be on its machine", name)
	}
	return other(name, "network")
}

func volume(v string) error {
	source, rest, _ := strings.Cut(v, ":")
	if strings.HasPrefix(source, ".") {
		return fmt.Errorf("%s is relative to a unit file, which is not on the machine; give the whole path of a directory there", source)
	}
	if _, options, ok := strings.Cut(rest, ":"); ok {
		for o := range strings.SplitSeq(options, ",") {
			if slices.Contains([]string{"U", "O", "idmap", "copy"}, o) {
				return fmt.Errorf("the option %s of a volume is Podman's and not known to Docker", o)
			}
		}
	}
	return other(source, "volume")
}

func mount(v string) error {
	for f := range strings.SplitSeq(v, ",") {
		k, value, _ := strings.Cut(f, "=")
		switch {
		case k == "type" && !slices.Contains([]string{"bind", "volume", "tmpfs"}, value):
			return fmt.Errorf("type=%s is Podman's; Docker knows bind, volume and tmpfs", value)
		case k == "source" || k == "src":
			if err := other(value, "volume"); err != nil {
				return err
			}
		}
	}
	return nil
}
