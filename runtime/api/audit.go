package api

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"plasmid/runtime/store"
)

// AuditEntry is a change that somebody made, or was refused.
type AuditEntry struct {
	Time     time.Time `json:"time"`
	Who      string    `json:"who"`
	Role     Role      `json:"role"`
	From     string    `json:"from"`    // address, or socket
	Machine  string    `json:"machine"` // whose API was asked
	Request  string    `json:"request"` // method and path
	What     []string  `json:"what,omitempty"`
	Revision int64     `json:"revision,omitempty"` // of the store, with the change in it
	Status   int       `json:"status"`             // of the answer; 400 and above: nothing was changed
}

func (e AuditEntry) String() string {
	what := strings.Join(e.What, "; ")
	if e.Status >= 300 {
		what = fmt.Sprintf("was refused (%d) %s", e.Status, e.Request)
	}
	return fmt.Sprintf("%s (%s) %s", e.Who, e.Role, what)
}

// AuditLog keeps entries.
type AuditLog interface {
	Record(AuditEntry)
	// Last returns the newest entries, at most n, oldest first.
	Last(ctx context.Context, n int) ([]AuditEntry, error)
}

// AuditAnswer is the audit log of the whole cluster.
type AuditAnswer struct {
	Entries []AuditEntry `json:"entries"` // oldest first
	// Silent are the machines that did not answer: what was asked of them is
	// missing.
	Silent []string `json:"silent,omitempty"`
}

// JournalAudit keeps the log in the machine's journal: one entry there for
// each, with the fields PLASMID_AUDIT (all of it, in JSON), PLASMID_WHO,
// PLASMID_ROLE and PLASMID_REVISION.
type JournalAudit struct{}

// Record writes an entry.
func (JournalAudit) Record(e AuditEntry) {
	data, err := json.Marshal(e)
	if err != nil {
		return // it has nothing that JSON can't hold
	}
	_ = journal.Send(e.String(), journal.PriNotice, map[string]string{
		"PLASMID_AUDIT": string(data), "PLASMID_WHO": e.Who, "PLASMID_ROLE": string(e.Role),
		"PLASMID_REVISION": strconv.FormatInt(e.Revision, 10), "PLASMID_KIND": "audit",
		"SYSLOG_IDENTIFIER": "plasmidd",
	})
}

// Last reads entries of the daemon's own; journald vouches for that they are.
func (JournalAudit) Last(ctx context.Context, n int) ([]AuditEntry, error) {
	cmd := exec.CommandContext(ctx, "journalctl", "--quiet", "--no-pager", "--all", "--output=json", "--output-fields=PLASMID_AUDIT",
		"--lines="+strconv.Itoa(n), "_SYSTEMD_UNIT=plasmidd.service", "PLASMID_KIND=audit")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
		}
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	return parseAudit(out)
}

// parseAudit reads what journalctl prints, an object for each line.
func parseAudit(out []byte) ([]AuditEntry, error) {
	var entries []AuditEntry
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Audit string `json:"PLASMID_AUDIT"`
		}
		var e AuditEntry
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("the journal's entry %s: %w", lines.Bytes(), err)
		}
		if err := json.Unmarshal([]byte(line.Audit), &e); err != nil {
			return nil, fmt.Errorf("the audit log's entry %q: %w", line.Audit, err)
		}
		entries = append(entries, e)
	}
	return entries, lines.Err()
}

// maxAudit is how many entries can be asked for.
const maxAudit = 10000

// audit answers with the newest entries of all machines.
func (s *server) audit(w http.ResponseWriter, r *http.Request) {
	n := 100
	if l := r.URL.Query().Get("lines"); l != "" {
		var err error
		if n, err = strconv.Atoi(l); err != nil || n < 1 || n > maxAudit {
			fail(w, http.StatusBadRequest, fmt.Errorf("lines=%q is no number from 1 to %d", l, maxAudit))
			return
		}
	}
	if s.Audit == nil {
		fail(w, http.StatusNotFound, errors.New("this daemon keeps no audit log"))
		return
	}
	mine, err := s.Audit.Last(r.Context(), n)
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	answer := AuditAnswer{Entries: mine}
	if !passedOn(r) {
		s.gatherAudit(r, &answer)
	}
	slices.SortStableFunc(answer.Entries, func(a, b AuditEntry) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Revision, b.Revision))
	})
	answer.Entries = answer.Entries[max(0, len(answer.Entries)-n):]
	if answer.Entries == nil {
		answer.Entries = []AuditEntry{}
	}
	write(w, http.StatusOK, answer)
}

// gatherAudit adds what the other machines have.
func (s *server) gatherAudit(r *http.Request, answer *AuditAnswer) {
	v := s.Mirror.View()
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for id, m := range v.Known {
		if id == s.MachineID {
			continue
		}
		wg.Go(func() {
			theirs, err := s.askAudit(r.WithContext(ctx), v, id)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				answer.Silent = append(answer.Silent, m.Name)
				return
			}
			answer.Entries = append(answer.Entries, theirs.Entries...)
		})
	}
	wg.Wait()
	slices.Sort(answer.Silent)
}

func (s *server) askAudit(r *http.Request, v *store.View, id string) (AuditAnswer, error) {
	var answer AuditAnswer
	rec := &discard{header: http.Header{}}
	s.proxy(rec, r, v, id)
	if rec.status != http.StatusOK {
		return answer, fmt.Errorf("status %d", rec.status)
	}
	return answer, json.Unmarshal(rec.body, &answer)
}
