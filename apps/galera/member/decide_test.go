package member

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	uuid  = "ab6fca9c-e8e6-11f1-a0c6-87c52c654a3a"
	other = "11111111-e8e6-11f1-a0c6-87c52c654a3a"
)

// view reads a view: words "id:phase:seqno" of live members ("-" no data, "?"
// and "!" data of unknown number, "x5" data of another cluster), "+id" of known ones,
// "claim=id" and "made".
func view(text string) View {
	v := View{Known: map[string]Known{}, Live: map[string]Live{}}
	for _, w := range strings.Fields(text) {
		if id, ok := strings.CutPrefix(w, "+"); ok {
			v.Known[id] = Known{"m" + id, "10.0.0." + id}
			continue
		}
		if id, ok := strings.CutPrefix(w, "claim="); ok {
			v.Claim = id
			continue
		}
		if w == "made" {
			v.Cluster = &Cluster{UUID: uuid, By: "1"}
			continue
		}
		f := strings.Split(w, ":")
		v.Live[f[0]] = Live{Machine: "m" + f[0], Address: "10.0.0." + f[0], Phase: Phase(f[1]), Position: position(f[2])}
	}
	return v
}

func position(s string) Position {
	p := Position{UUID: uuid, Seqno: Unknown}
	if n, ok := strings.CutPrefix(s, "x"); ok {
		p.UUID, s = other, n
	}
	switch s {
	case "-":
		return Position{Seqno: Unknown}
	case "?":
		return p
	case "!":
		return unread
	}
	if _, err := fmt.Sscan(s, &p.Seqno); err != nil {
		panic(err)
	}
	return p
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name     string
		own      string
		examined bool
		view     string
		want     string // step, peers, and part of why
	}{
		{"fresh, alone", "-", false, "1:stopped:-", "bootstrap"},
		{"fresh, with others", "-", false, "1:stopped:- 2:stopped:- 3:stopped:-", "bootstrap"},
		{"fresh, another is making it", "-", false, "1:stopped:- 2:starting:- claim=2", "wait 2 (on m2) is making"},
		{"fresh, known from a bootstrap that failed", "-", false, "+2 1:stopped:-", "bootstrap"},
		{"data that etcd does not know", "5", false, "1:stopped:5", "refuse there is data of cluster " + uuid},
		{"data that etcd does not know, number unknown", "?", true, "1:stopped:?", "refuse adopt it, or move it away"},
		{"fresh, beside data that etcd does not know", "-", false, "1:stopped:- 2:stopped:x5", "wait 2 (on m2) has data of cluster " + other},
		{"etcd was made anew under a cluster that runs", "-", false, "1:stopped:- 2:primary:0", "wait there is a cluster at 10.0.0.2"},
		{"the same, with data", "5", false, "1:stopped:5 2:primary:0", "wait there is a cluster at 10.0.0.2"},

		{"one up", "-", false, "made +2 1:stopped:- 2:primary:0", "join 10.0.0.2"},
		{"two up", "7", false, "made +2 +3 1:stopped:7 2:primary:0 3:primary:0", "join 10.0.0.2,10.0.0.3"},
		{"up, and one that is on its way", "-", false, "made +2 +3 1:stopped:- 2:primary:0 3:starting:0", "join 10.0.0.2"},
		{"up, own number unknown", "?", false, "made +1 +2 1:stopped:? 2:primary:0", "examine"},
		{"up, own data can't be read", "?", true, "made +1 +2 1:stopped:? 2:primary:0", "join 10.0.0.2"},
		{"up, own data of another cluster", "x7", false, "made +2 1:stopped:x7 2:primary:0", "refuse the data here is of cluster " + other},
		{"up, and a claim that is not given back yet", "3", false, "made +1 +2 1:stopped:3 2:primary:0 claim=2", "join 10.0.0.2"},

		{"all down, the furthest", "9", false, "made +1 +2 +3 1:stopped:9 2:stopped:8 3:stopped:3", "recover"},
		{"all down, not the furthest", "8", false, "made +1 +2 +3 1:stopped:8 2:stopped:9 3:stopped:3", "wait 2 (on m2), which is furthest, starts it at 9"},
		{"all down, equal: the first by name", "9", false, "made +1 +2 1:stopped:9 2:stopped:9", "recover"},
		{"all down, number unknown", "?", false, "made +1 +2 1:stopped:? 2:stopped:9", "examine"},
		{"all down, own can't be read", "?", true, "made +1 +2 1:stopped:? 2:stopped:9", "wait the data here can't be read"},
		{"all down, another's number unknown", "9", false, "made +1 +2 1:stopped:9 2:stopped:?", "wait hear how far the data goes of 2 (on m2)"},
		{"all down, grastate.dat is spoilt", "!", false, "made +1 1:stopped:!", "examine"},
		{"all down, spoilt and not to be read", "!", true, "made +1 1:stopped:!", "wait the data here can't be read"},
		{"up, spoilt and not to be read", "!", true, "made +1 +2 1:stopped:! 2:primary:0", "join 10.0.0.2"},
		{"all down, another's is spoilt", "9", false, "made +1 +2 1:stopped:9 2:stopped:!", "wait hear how far the data goes of 2 (on m2)"},
		{"all down, one is missing", "9", false, "made +1 +2 +3 1:stopped:9 2:stopped:8", "wait hear how far the data goes of 3 (on m3)"},
		{"all down, a known one's data is gone", "9", false, "made +1 +2 1:stopped:9 2:stopped:-", "recover"},
		{"all down, an interrupted copy", "-", false, "made +1 +2 1:stopped:- 2:stopped:4", "wait 2 (on m2), which is furthest"},
		{"all down, all data is gone", "-", false, "made +1 +2 1:stopped:- 2:stopped:-", "wait no member has its data any more"},
		{"all down, another has foreign data", "2", false, "made +1 +2 1:stopped:2 2:stopped:x9", "recover"},
		{"all down, forgotten and ahead", "9", false, "made +2 1:stopped:9 2:stopped:8", "wait 2 (on m2), which is furthest"},
		{"all down, empty newcomer", "-", false, "made +2 +3 1:stopped:- 2:stopped:8 3:stopped:7", "wait 2 (on m2), which is furthest"},
		{"all down, claimed", "9", false, "made +1 +2 1:stopped:9 2:starting:9 claim=2", "wait 2 (on m2) is starting the cluster"},
		{"the last to stop starts alone", "9", false, "made +1 1:stopped:9 2:stopped:8", "recover"},

		{"split: another runs outside", "9", false, "made +1 +2 +3 1:stopped:9 2:starting:0 3:stopped:9", "wait hear how far the data goes of 2"},
		{"split: a majority goes on", "9", false, "made +1 +2 +3 1:stopped:9 2:primary:0 3:primary:0", "join 10.0.0.2,10.0.0.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := Decide("1", position(c.own), c.examined, view(c.view))
			step, why, _ := strings.Cut(c.want, " ")
			got := a.Why
			if a.Step == Join {
				got = strings.Join(a.Peers, ",")
			}
			if string(a.Step) != step || !strings.Contains(got, why) {
				t.Errorf("got %s %q, want %s", a.Step, got, c.want)
			}
		})
	}
}

func TestAttend(t *testing.T) {
	inside := Server{Primary: true, Synced: true, Members: []string{"10.0.0.1", "10.0.0.2"}}
	outside := func(cut time.Duration) Server { return Server{Cut: cut} }
	closed := func(cut time.Duration) Server { return Server{Cut: cut, Closed: true} }
	busy, behind := inside, inside
	busy.Queue, behind.Synced = 3, false
	for _, c := range []struct {
		name   string
		server Server
		view   string
		stop   bool
		enter  bool
		forget string
		record bool
	}{
		{"all is well", inside, "made +1 +2 1:primary:0 2:primary:0", false, false, "", false},
		{"not known yet", inside, "made +2 1:primary:0 2:primary:0", false, true, "", false},
		{"etcd was made anew", inside, "1:primary:0 2:primary:0", false, true, "", false},
		{"etcd was made anew, known again", inside, "+1 1:primary:0 2:primary:0", false, false, "", true},
		{"etcd was made anew, not all is applied", busy, "+1 1:primary:0 2:primary:0", false, false, "", false},
		{"cut off, etcd was made anew", outside(0), "1:starting:0", false, false, "", false},
		{"one is gone", inside, "made +1 +2 +3 1:primary:0 2:primary:0", false, false, "3", false},
		{"one is gone, but its supervisor lives", inside, "made +1 +2 +3 1:primary:0 2:primary:0 3:stopped:4", false, false, "", false},
		{"one's supervisor is gone, its server is in", inside, "made +1 +2 1:primary:0", false, false, "", false},
		{"one's disk was replaced", inside, "made +1 +2 +2b 1:primary:0 2:primary:0", false, false, "2b", false},
		{"one is gone, not all is applied", busy, "made +1 +2 +3 1:primary:0", false, false, "", false},
		{"one is gone, not in step", behind, "made +1 +2 +3 1:primary:0", false, false, "", false},
		{"never itself", Server{Primary: true, Synced: true}, "made +1", false, false, "", false},
		{"just cut off", outside(patience), "made +1 +2 1:starting:0 2:starting:0", false, false, "", false},
		{"cut off, nobody is in", outside(patience + 1), "made +1 +2 1:starting:0 2:starting:0", true, false, "", false},
		{"cut off, others are in", outside(longPatience), "made +1 +2 1:starting:0 2:primary:0", false, false, "", false},
		{"cut off for long, others are in", outside(longPatience + 1), "made +1 +2 1:starting:0 2:primary:0", true, false, "", false},
		{"has left", closed(closedPatience + 1), "made +1 +2 1:starting:0 2:primary:0", true, false, "", false},
		{"has just left", closed(closedPatience), "made +1 +2 1:starting:0 2:primary:0", false, false, "", false},
		{"cut off, forgets nobody", outside(0), "made +1 +2 1:starting:0", false, false, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := view(c.view)
			if k, ok := v.Known["2b"]; ok {
				k.Address = "10.0.0.2"
				v.Known["2b"] = k
			}
			got := Attend("1", c.server, v)
			if (got.Stop != "") != c.stop || got.Enter != c.enter || got.Record != c.record || strings.Join(got.Forget, ",") != c.forget {
				t.Errorf("got %+v", got)
			}
		})
	}
}
