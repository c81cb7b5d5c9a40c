package unit

import (
	"fmt"
	"strings"
	"testing"
)

func TestPlacing(t *testing.T) {
	for _, c := range []struct{ text, want, problem string }{
		{"Cpu=0.5\nMemory=1.5G", "500 1536 []", ""},
		{"Cpu=500m\nMemory=512", "500 1 []", ""},
		{"Cpu=2\nMemory=64K\nPorts=80 53/udp\nPorts=8000-8002", "2000 1 [80/tcp 53/udp 8000/tcp 8001/tcp 8002/tcp]", ""},
		{"Cpu=-1", "", `line 2: Cpu=: "-1" is no number of processors`},
		{"Cpu=NaN", "", "is no number of processors"},
		{"Memory=1X", "", `"1X" is no size such as 512M or 2G`},
		{"Memory=", "", `"" is no size`},
		{"Ports=0", "", `"0" is no port`},
		{"Ports=80-70", "", `"80-70" is no port`},
		{"Ports=1-65535", "", "more than 1024 ports"},
		{"Ports=80/sctp", "", `"80/sctp" is no port`},
		{"Ports=80 443 80", "", "port 80/tcp is named twice"},
		{"Spread=zone=a", "", `"zone=a" is neither host nor zone`},
		{"Machine=a=", "", `"a=" is none of key=value`},
		{"Machine=a>b", "", "compares with something that is not one number"},
		{"Machine=!a=b", "", "write key!=value"},
		{"Cpus=1", "", "did you mean Cpu=?"},
	} {
		s, err := SpecOf("u.service", "[X-Plasmid]\n"+c.text+"\n")
		switch {
		case c.problem != "":
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%q: %v, want %s", c.text, err, c.problem)
			}
		case err != nil:
			t.Errorf("%q: %v", c.text, err)
		default:
			if have := fmt.Sprint(s.Reserve.CPU, s.Reserve.Memory, s.Reserve.Ports); have != c.want {
				t.Errorf("%q: %s, want %s", c.text, have, c.want)
			}
		}
	}
}

func TestRequirements(t *testing.T) {
	have := map[string]string{"zone": "a", "cpus": "8", "disk": "nvme", "name": "x1"}
	for text, met := range map[string]bool{
		"zone=a": true, "zone=b": false, "zone=b|a": true, "zone!=a": false, "zone!=b": true, "zone!=b|c": true, "zone!=a|b": false,
		"rack=1": false, "rack!=1": true, "rack": false, "!rack": true, "zone": true, "!zone": false,
		"cpus>=8": true, "cpus>8": false, "cpus<8": false, "cpus<=8": true, "cpus>7.5": true, "name>1": false, "rack<1": false,
		"cpus>10": false, // as numbers, not as texts
	} {
		rs, err := parseRequirements(text)
		if err != nil || len(rs) != 1 {
			t.Fatalf("%s: %v %v", text, rs, err)
		}
		if rs[0].Met(have) != met || rs[0].String() != text {
			t.Errorf("%s, read as %s, is %v", text, rs[0], !met)
		}
	}
	if rs, err := parseRequirements(`zone=a "disk=b c"  cpus>2`); err != nil || len(rs) != 3 || rs[1].Values[0] != "b c" {
		t.Errorf("%v %v", rs, err)
	}
}
