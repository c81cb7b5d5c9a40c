package plan

import (
	"slices"
	"testing"
)

// A member whose machine is gone gets another one, which has to join again.
func TestLostMachineJoinsAgain(t *testing.T) {
	in := Input{Cluster: "c", Network: true}
	for _, name := range []string{"c-1", "c-2", "c-3", "c-4"} {
		w := Machine{Name: name, Image: "i", Etcd: name != "c-4"}
		in.Wanted = append(in.Wanted, w)
		in.Members = append(in.Members, Member{Name: name, Etcd: w.Etcd, Spec: w.Spec()})
		if name == "c-1" || name == "c-2" {
			in.Observed = append(in.Observed, Observed{Name: name, Image: "i", Running: true, Complete: true})
		}
	}
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"c-3", "c-4"} {
		i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == StepID(Update, KindMember, name) })
		if i < 0 {
			t.Fatalf("%s does not join again: %v", name, p.Steps)
		}
		if !slices.Contains(p.Steps[i].Needs, StepID(Create, KindMachine, name)) {
			t.Errorf("%s joins before it is made: %v", name, p.Steps[i].Needs)
		}
	}
}
