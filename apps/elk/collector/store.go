package collector

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// store speaks to VictoriaLogs: Elasticsearch's bulk API for what comes in,
// LogsQL for what is there.
type store struct {
	base string // URL
	http *http.Client
}

// maxAnswer is the longest answer that is read, in bytes.
const maxAnswer = 16 << 20

func (s store) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the store answers %s: %.200s", resp.Status, bytes.TrimSpace(answer))
	}
	return answer, nil
}

// bulk stores events. The store answers when they can be searched; they are on
// its disk a little later. All are of one stream: what the store knows of a
// stream gets to its disk after the events of it, and without it they are not
// found until another event of the stream comes.
func (s store) bulk(ctx context.Context, events []event) error {
	var body bytes.Buffer
	for _, e := range events {
		body.WriteString("{\"create\":{\"_index\":\"logs\"}}\n")
		body.Write(e.json)
		body.WriteByte('\n')
	}
	answer, err := s.do(ctx, http.MethodPost, "/insert/elasticsearch/_bulk?_time_field=@timestamp&_msg_field=message", "application/x-ndjson", body.Bytes())
	if err != nil {
		return err
	}
	var took struct {
		Errors bool              `json:"errors"`
		Items  []json.RawMessage `json:"items"`
	}
	// What can't be parsed ends a bulk request with an empty answer.
	if err := json.Unmarshal(answer, &took); err != nil {
		return fmt.Errorf("the store's answer to _bulk: %w", err)
	}
	if took.Errors || len(took.Items) != len(events) {
		return fmt.Errorf("the store took %d of %d events", len(took.Items), len(events))
	}
	return nil
}

// life names one run of the store: another after it was started again.
func (s store) life(ctx context.Context) (string, error) {
	answer, err := s.do(ctx, http.MethodGet, "/metrics", "", nil)
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(answer) {
		if at, ok := bytes.CutPrefix(line, []byte("vm_app_start_timestamp ")); ok {
			return s.base + " since " + string(bytes.TrimSpace(at)), nil
		}
	}
	return "", errors.New("the store's metrics do not say since when it runs")
}

// missing returns the events that the store does not have. Events without a
// position can't be told from others, and count as missing.
func (s store) missing(ctx context.Context, events []event) ([]event, error) {
	have := map[position]bool{}
	for source, r := range ranges(events) {
		query := fmt.Sprintf(`source:=%s offset:range[%d, %d] | fields offset`, strconv.Quote(source), r.first, r.last)
		answer, err := s.do(ctx, http.MethodPost, "/select/logsql/query", "application/x-www-form-urlencoded", []byte(url.Values{"query": {query}}.Encode()))
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(bytes.NewReader(answer))
		for lines.Scan() {
			var row struct {
				Offset string `json:"offset"`
			}
			if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
				return nil, fmt.Errorf("the store's answer to a query: %w", err)
			}
			at, err := strconv.ParseInt(strings.TrimSpace(row.Offset), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("the store's answer to a query: %w", err)
			}
			have[position{source, at}] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(events), func(e event) bool { return e.at.source != "" && have[e.at] }), nil
}

type span struct{ first, last int64 }

// ranges are the first and last offsets of each source.
func ranges(events []event) map[string]span {
	rs := map[string]span{}
	for _, e := range events {
		if e.at.source == "" {
			continue
		}
		r, ok := rs[e.at.source]
		if !ok {
			r = span{e.at.offset, e.at.offset}
		}
		rs[e.at.source] = span{min(r.first, e.at.offset), max(r.last, e.at.offset)}
	}
	return rs
}
