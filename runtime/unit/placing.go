package unit

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Reservations are what a unit takes of its machine. They are counted when
// units are placed; what a process really uses is for its own MemoryMax= and
// CPUQuota= to limit.
type Reservations struct {
	CPU    int      // thousandths of a processor
	Memory int      // MiB
	Ports  []string // of the host, as 80/tcp; no two units of a machine have the same
}

// Requirement is one condition of Machine=.
type Requirement struct {
	Key    string
	Op     string   // one of = != < <= > >=, or has, or lacks
	Values []string // alternatives; one number for a comparison
}

func (r Requirement) String() string {
	switch r.Op {
	case "has":
		return r.Key
	case "lacks":
		return "!" + r.Key
	}
	return r.Key + r.Op + strings.Join(r.Values, "|")
}

// Met reports whether what a machine has fulfils the requirement. A machine
// without the key has no value, which is unequal to all values.
func (r Requirement) Met(have map[string]string) bool {
	v, ok := have[r.Key]
	switch r.Op {
	case "has":
		return ok
	case "lacks":
		return !ok
	case "=":
		return ok && slices.Contains(r.Values, v)
	case "!=":
		return !ok || !slices.Contains(r.Values, v)
	}
	a, err := strconv.ParseFloat(v, 64)
	b, err2 := strconv.ParseFloat(r.Values[0], 64)
	if err != nil || err2 != nil {
		return false
	}
	switch r.Op {
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	}
	return a >= b
}

// parseRequirements reads the words of Machine=: key=a, key=a|b, key!=a, key<n,
// key<=n, key>n, key>=n, key and !key.
func parseRequirements(value string) ([]Requirement, error) {
	words, err := SplitWords(value)
	if err != nil {
		return nil, err
	}
	var rs []Requirement
	for _, w := range words {
		i := strings.IndexAny(strings.TrimPrefix(w, "!"), "=!<>") + len(w) - len(strings.TrimPrefix(w, "!"))
		r := Requirement{Key: strings.TrimPrefix(w, "!"), Op: "has"}
		switch {
		case strings.IndexAny(r.Key, "=!<>") < 0 && r.Key != "":
			if r.Key != w {
				r.Op = "lacks"
			}
			rs = append(rs, r)
			continue
		case strings.HasPrefix(w, "!"):
			return nil, fmt.Errorf("%q: write key!=value, or !key for a machine that lacks the key", w)
		}
		r.Key = w[:i]
		rest := w[i:]
		for _, op := range []string{"!=", "<=", ">=", "=", "<", ">"} {
			if v, ok := strings.CutPrefix(rest, op); ok {
				r.Op, r.Values = op, strings.Split(v, "|")
				break
			}
		}
		if r.Key == "" || len(r.Values) == 0 || slices.Contains(r.Values, "") {
			return nil, fmt.Errorf("%q is none of key=value, key!=value, key<n, key<=n, key>n, key>=n, key, !key", w)
		}
		if r.Op != "=" && r.Op != "!=" {
			if _, err := strconv.ParseFloat(r.Values[0], 64); err != nil || len(r.Values) > 1 {
				return nil, fmt.Errorf("%q compares with something that is not one number", w)
			}
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// parseCPU reads a number of processors, 0.5 or 500m, as thousandths.
func parseCPU(s string) (int, error) {
	factor := 1000.0
	n, milli := strings.CutSuffix(s, "m")
	if milli {
		factor = 1
	}
	f, err := strconv.ParseFloat(n, 64)
	if err != nil || f < 0 || f*factor > 1e9 || math.IsNaN(f) {
		return 0, fmt.Errorf("%q is no number of processors such as 2, 0.5 or 500m", s)
	}
	return int(math.Ceil(f * factor)), nil
}

// parseMemory reads a size as systemd does, bytes or with K, M, G or T to the
// base 1024, as MiB, rounded up.
func parseMemory(s string) (int, error) {
	n, shift := s, 0
	if s != "" {
		if i := strings.IndexByte("KMGT", s[len(s)-1]); i >= 0 {
			n, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	f, err := strconv.ParseFloat(n, 64)
	mib := math.Ceil(f * math.Pow(2, float64(shift-20)))
	if err != nil || f < 0 || mib > 1<<40 || math.IsNaN(f) {
		return 0, fmt.Errorf("%q is no size such as 512M or 2G", s)
	}
	return int(mib), nil
}

// maxPorts is the most that one unit may reserve.
const maxPorts = 1024

// parsePorts reads 80, 53/udp and 8000-8003 as 80/tcp, 53/udp, 8000/tcp …
func parsePorts(s string) ([]string, error) {
	var out []string
	for _, w := range strings.Fields(strings.ReplaceAll(s, ",", " ")) {
		spec, proto, ok := strings.Cut(w, "/")
		if !ok {
			proto = "tcp"
		}
		first, last, isRange := strings.Cut(spec, "-")
		if !isRange {
			last = first
		}
		a, err := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil || a < 1 || b > 65535 || a > b || proto != "tcp" && proto != "udp" {
			return nil, fmt.Errorf("%q is no port such as 80, 53/udp or 8000-8003", w)
		}
		for p := a; p <= b; p++ {
			out = append(out, fmt.Sprintf("%d/%s", p, proto))
		}
		if len(out) > maxPorts {
			return nil, fmt.Errorf("more than %d ports", maxPorts)
		}
	}
	return out, nil
}

// setPlacing takes an option that says where the unit may run; known is false
// for another option.
func (s *Spec) setPlacing(name, value string) (known bool, err error) {
	switch name {
	case "Cpu":
		s.Reserve.CPU, err = parseCPU(value)
	case "Memory":
		s.Reserve.Memory, err = parseMemory(value)
	case "Ports":
		var ports []string
		ports, err = parsePorts(value)
		for _, p := range ports {
			if slices.Contains(s.Reserve.Ports, p) {
				return true, fmt.Errorf("port %s is named twice", p)
			}
			s.Reserve.Ports = append(s.Reserve.Ports, p)
		}
	case "Spread":
		if value == "" || strings.ContainsAny(value, " \t=!<>") {
			return true, fmt.Errorf("%q is neither host nor zone nor another metadata key", value)
		}
		s.Spread = value
	case "Machine":
		var rs []Requirement
		rs, err = parseRequirements(value)
		s.Machine = append(s.Machine, rs...)
	default:
		return false, nil
	}
	return true, err
}
