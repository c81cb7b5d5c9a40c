package member

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// noUUID is what Galera writes when the data is of no use, such as during a
// transfer from another member.
const noUUID = "00000000-0000-0000-0000-000000000000"

// parseGrastate reads grastate.dat, in which Galera keeps the position of a
// server that was shut down: lines of "key: value", and comments.
func parseGrastate(text string) (Position, error) {
	p := Position{Seqno: Unknown}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(line, ":")
		if !ok {
			return p, fmt.Errorf("grastate.dat: %q is not of the form key: value", line)
		}
		v = strings.TrimSpace(v)
		seen[k] = true
		switch k {
		case "uuid":
			if v != noUUID {
				p.UUID = v
			}
		case "seqno":
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return p, fmt.Errorf("grastate.dat: seqno %q is no number", v)
			}
			p.Seqno = max(n, Unknown)
		}
	}
	if !seen["uuid"] || !seen["seqno"] {
		return p, errors.New("grastate.dat lacks uuid or seqno")
	}
	if p.Empty() {
		p.Seqno = Unknown
	}
	return p, nil
}

// formatGrastate is a grastate.dat from which Galera starts a cluster. Galera
// refuses if safe_to_bootstrap is 0, which it is unless the member was the last
// to be shut down; who is to start the cluster has been decided by then.
func formatGrastate(p Position) string {
	return fmt.Sprintf("# GALERA saved state\nversion: 2.1\nuuid:    %s\nseqno:   %d\nsafe_to_bootstrap: 1\n", p.UUID, p.Seqno)
}

var recovered = regexp.MustCompile(`WSREP: Recovered position:? ([0-9a-f-]{36}):(-?[0-9]+)`)

// parseRecovered finds the position in what mariadbd --wsrep-recover prints.
func parseRecovered(log string) (Position, error) {
	m := recovered.FindAllStringSubmatch(log, -1)
	if len(m) == 0 {
		return Position{Seqno: Unknown}, errors.New("mariadbd --wsrep-recover tells no position")
	}
	last := m[len(m)-1]
	n, err := strconv.ParseInt(last[2], 10, 64)
	if err != nil {
		return Position{Seqno: Unknown}, err
	}
	if last[1] == noUUID || n < 0 {
		return Position{Seqno: Unknown}, nil
	}
	return Position{last[1], n}, nil
}
