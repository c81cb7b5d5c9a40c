package unit

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSpecOf(t *testing.T) {
	defaults := Ready{Interval: DefaultReadyInterval, Timeout: DefaultReadyTimeout}
	for _, tt := range []struct {
		name string
		unit string
		text string
		want Spec
	}{
		{"plain", "a.service", "[Service]\nExecStart=/bin/true\n", Spec{Ready: defaults}},
		{"fleet", "a@1.service", "[X-Fleet]\nMachineMetadata=role=web\nMachineMetadata=\"role=db\" \"zone=a b\"\nConflicts=%p@*.service x.service\n",
			Spec{Metadata: map[string][]string{"role": {"web", "db"}, "zone": {"a b"}}, Conflicts: []string{"a@*.service", "x.service"}, Ready: defaults}},
		{"legacy", "a@1.service", "[X-Fleet]\nX-ConditionMachineOf=b@%i.service\n", Spec{MachineOf: []string{"b@1.service"}, Ready: defaults}},
		{"legacy metadata and conflicts", "a.service", "[X-Fleet]\nX-ConditionMachineMetadata=role=web\nX-Conflicts=b.* c.service\nX-Conflicts=d.service\n",
			Spec{Metadata: map[string][]string{"role": {"web"}}, Conflicts: []string{"b.*", "c.service", "d.service"}, Ready: defaults}},
		{"legacy machine id", "a.service", "[X-Fleet]\nX-ConditionMachineID=abcdef01\n", Spec{MachineID: "abcdef01", Ready: defaults}},
		{"legacy boot id", "a.service", "[X-Fleet]\nX-ConditionMachineBootID=abcdef01\n", Spec{MachineID: "abcdef01", Ready: defaults}},
		{"peers", "b@2.service", "[X-Fleet]\nMachineOf=a@%i.service\nMachineOf=%p-data.service c.service\n",
			Spec{MachineOf: []string{"a@2.service", "b-data.service", "c.service"}, Ready: defaults}},
		{"replaces", "b@2.service", "[X-Fleet]\nReplaces=%N.timer\n", Spec{Replaces: []string{"b@2.timer"}, Ready: defaults}},
		{"global with conflicts and metadata", "g.service", "[X-Fleet]\nGlobal=1\nConflicts=h*\nMachineMetadata=host=%p\n",
			Spec{Global: true, Conflicts: []string{"h*"}, Metadata: map[string][]string{"host": {"g"}}, Ready: defaults}},
		{"quadlet", "q.service", "[Container]\nImage=a\nContainerName=%p-c\n", Spec{Container: "q-c", Ready: defaults}},
		{"quadlet without a name", "q.service", "[Container]\nImage=a\n", Spec{Container: "q", Ready: defaults}},
		{"quadlet's instance", "q@1.service", "[Container]\nImage=a\n", Spec{Container: "q-1", Ready: defaults}},
		{"machine id", "pin@ABCDEF01.service", "[X-Fleet]\nMachineID=%i\n", Spec{MachineID: "abcdef01", Ready: defaults}},
		{"global", "g.service", "[X-Fleet]\nGlobal=false\nGlobal=yes\n", Spec{Global: true, Ready: defaults}},
		{"install", "a.service", "[Install]\nWantedBy=b.service c.service\nRequiredBy=d.service\n",
			Spec{WantedBy: []string{"b.service", "c.service"}, RequiredBy: []string{"d.service"}, Ready: defaults}},
		{"plasmid", "s@2.service", "[X-Plasmid]\nApp=hello\nContainer=s-%i\nImages=r/a@sha256:1 r/b@sha256:2\nReady=http://:5000/health\nReadyInterval=500ms\nRegister=/s/%i ${HOST_IP}:${PORT_5000}\n",
			Spec{App: "hello", Container: "s-2", Images: []string{"r/a@sha256:1", "r/b@sha256:2"},
				Ready:    Ready{Kind: "http", Port: 5000, Path: "/health", Interval: 500 * time.Millisecond, Timeout: DefaultReadyTimeout},
				Register: []Registration{{"/s/2", "${HOST_IP}:${PORT_5000}"}}}},
		{"tcp", "s.service", "[X-Plasmid]\nReady=tcp://:9200\n", Spec{Ready: Ready{Kind: "tcp", Port: 9200, Interval: DefaultReadyInterval, Timeout: DefaultReadyTimeout}}},
		{"exec", "s.service", "[X-Plasmid]\nReady=exec:/bin/check 'a b' c\n", Spec{Ready: Ready{Kind: "exec", Command: []string{"/bin/check", "a b", "c"}, Interval: DefaultReadyInterval, Timeout: DefaultReadyTimeout}}},
	} {
		got, err := SpecOf(tt.unit, tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		tt.want.Name = tt.unit
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

func TestSpecErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"[X-Fleet]\nMachineID=a\nMachineOf=b.service\n", "MachineID= and MachineOf= can't be used together"},
		{"[X-Fleet]\nMachineID=a\nConflicts=b\n", "MachineID= and Conflicts= can't"},
		{"[X-Fleet]\nMachineID=a\nGlobal=true\n", "MachineID= and Global= can't"},
		{"[X-Fleet]\nMachineID=a\nReplaces=b.service\n", "MachineID= and Replaces= can't"},
		{"[X-Fleet]\nGlobal=true\nMachineOf=b.service\n", "Global= and MachineOf= can't"},
		{"[X-Fleet]\nGlobal=true\nReplaces=b.service\n", "Global= and Replaces= can't"},
		{"[X-Fleet]\nConflicts=b\nReplaces=b.service\n", "Conflicts= and Replaces= can't"},
		{"[X-Fleet]\nMachineOf=b.service\nConflicts=b.*\n", "MachineOf=b.service asks for the unit that Conflicts=b.* keeps away"},
		{"[X-Fleet]\nMachineOf=b.service\nReplaces=b.service\n", "that Replaces= drives away"},
		{"[X-Fleet]\nMachineID=a\nX-ConditionMachineID=b\n", "line 3: X-ConditionMachineID=: a was named before"},
		{"[X-Fleet]\nX-ConditionMachineID=a\nX-Conflicts=b\n", "MachineID= and Conflicts= can't"},
		{"[X-Fleet]\nConflicts=[a\n", "a.service: line 2: Conflicts=: \"[a\" is no glob pattern"},
		{"[X-Fleet]\nMachineMetadata=role\n", `line 2: MachineMetadata=: "role" is not of the form key=value`},
		{"[X-Fleet]\nMachineMetadata=\"role=a\n", "the quote \" is not closed"},
		{"[X-Fleet]\nGlobal=maybe\n", `"maybe" is neither true nor false`},
		{"[X-Plasmid]\nRegistre=/a b\n", "line 2: Registre=: there is no such option in [X-Plasmid]; did you mean Register=?"},
		{"[X-Plasmid]\nApp=x\nRegister=a b\n", `"a b" is not of the form /key value`},
		{"[X-Plasmid]\nApp=x\nRegister=/a/../../b c\n", "not in its shortest form"},
		{"[X-Plasmid]\nRegister=/a b\n", "Register= needs App="},
		{"[X-Plasmid]\nApp=a/b\n", `"a/b" is no app name`},
		{"[X-Plasmid]\nReady=ftp://x\n", "is none of http://"},
		{"[X-Plasmid]\nReady=http://host/health\n", "names no port"},
		{"[X-Plasmid]\nReady=tcp://:1/x\n", "has no path"},
		{"[X-Plasmid]\nReady=exec:\n", "names no command"},
		{"[X-Plasmid]\nReadyInterval=5\n", "no positive duration"},
	} {
		if _, err := SpecOf("a.service", tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	f, err := Parse("[X-Fleet]\nConflict=a.service\nGlobal=true\nX-Conflicts=b\n[x-fleet]\nGlobal=true\nGlobal=true\n[Plasmid]\nApp=a\n[X-Other]\nA=b\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"line 2: unknown option Conflict= in [X-Fleet] is ignored; did you mean Conflicts=?",
		"line 6: section [x-fleet] is ignored; did you mean [X-Fleet]?",
		"line 9: section [Plasmid] is ignored; did you mean [X-Plasmid]?"}
	if d := cmp.Diff(want, f.Warnings()); d != "" {
		t.Error(d)
	}
}

func TestConflictsWithNeverItself(t *testing.T) {
	s, err := SpecOf("a@1.service", "[X-Fleet]\nConflicts=a@*.service\n")
	if err != nil {
		t.Fatal(err)
	}
	if g := s.ConflictsWith("a@1.service"); g != "" {
		t.Errorf("conflicts with itself by %s", g)
	}
	if g := s.ConflictsWith("a@2.service"); g != "a@*.service" {
		t.Errorf("conflict with its sibling by %q", g)
	}
}

func TestTruth(t *testing.T) {
	for word, want := range map[string]bool{
		"true": true, "yes": true, "1": true, "on": true, "t": true, "TRUE": true, "Yes": true,
		"false": false, "no": false, "0": false, "off": false, "f": false, "": false,
	} {
		s, err := SpecOf("a.service", "[X-Fleet]\nGlobal="+word+"\n")
		if err != nil || s.Global != want {
			t.Errorf("Global=%s: %v, %v", word, s.Global, err)
		}
	}
}
