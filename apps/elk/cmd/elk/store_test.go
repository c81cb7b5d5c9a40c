package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// forgetful is as much of VictoriaLogs as the collector speaks to. What it
// takes can be searched at once and is on its disk after flushEvery; being
// killed it forgets the rest, which can't be made to happen at will with the
// real one.
type forgetful struct {
	file *os.File

	mu     sync.Mutex
	events []map[string]any
	raw    [][]byte
	kept   int // events that are on the disk
}

const flushEvery = 300 * time.Millisecond

func runForgetfulStore(address, file string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		fail(err)
	}
	s := &forgetful{file: f}
	data, err := io.ReadAll(f)
	if err != nil {
		fail(err)
	}
	for line := range bytes.Lines(data) {
		if err := s.add(line); err != nil {
			fail(err)
		}
	}
	s.kept = len(s.raw)
	go func() {
		for range time.Tick(flushEvery) {
			if err := s.flush(); err != nil {
				fail(err)
			}
		}
	}()
	born := time.Now().UnixNano()
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "vm_app_start_timestamp %d\n", born) })
	mux.HandleFunc("/insert/elasticsearch/_bulk", s.bulk)
	mux.HandleFunc("/select/logsql/query", s.query)
	fail(http.ListenAndServe(address, mux))
}

func (s *forgetful) add(line []byte) error {
	var e map[string]any
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	s.events, s.raw = append(s.events, e), append(s.raw, append(bytes.TrimSpace(line), '\n'))
	return nil
}

func (s *forgetful) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.file.Write(bytes.Join(s.raw[s.kept:], nil))
	s.kept = len(s.raw)
	return err
}

func (s *forgetful) bulk(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	for i, line := range bytes.Split(bytes.TrimSpace(body), []byte("\n")) {
		if i%2 == 0 {
			continue // what to do
		}
		if err := s.add(line); err != nil {
			return
		}
		items = append(items, map[string]any{"create": map[string]int{"status": 201}})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"took": 1, "errors": false, "items": items})
}

var question = regexp.MustCompile(`^source:=(".*") offset:range\[(\d+), (\d+)\] \| fields offset$`)

func (s *forgetful) query(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("query") == "*" {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range s.raw {
			_, _ = w.Write(e)
		}
		return
	}
	m := question.FindStringSubmatch(r.FormValue("query"))
	if m == nil {
		http.Error(w, "cannot parse query", http.StatusBadRequest)
		return
	}
	source, _ := strconv.Unquote(m[1])
	first, _ := strconv.ParseFloat(m[2], 64)
	last, _ := strconv.ParseFloat(m[3], 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if at, ok := e["offset"].(float64); ok && e["source"] == source && at >= first && at <= last {
			fmt.Fprintf(w, "{\"offset\":\"%.0f\"}\n", at)
		}
	}
}
