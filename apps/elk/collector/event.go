package collector

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// position says which line of which file an event is: no two have the same.
type position struct {
	source string // empty: the sender does not say
	offset int64
}

// event is one to be stored.
type event struct {
	at     position
	resent bool // it may have been stored before
	json   []byte
}

// parse makes an event of what came by Lumberjack: a map of strings in version
// 1, any JSON in version 2. A message that is a JSON object is taken apart.
func parse(in any, now time.Time) (event, error) {
	fields := map[string]any{}
	switch in := in.(type) {
	case map[string]string:
		for k, v := range in {
			fields[k] = v
		}
		if line, ok := in["line"]; ok { // logstash-forwarder's name
			delete(fields, "line")
			fields["message"] = line
		}
	case map[string]any:
		for k, v := range in {
			fields[k] = v
		}
	default:
		fields["message"] = fmt.Sprint(in)
	}
	var e event
	e.resent = fields["resent"] == true
	delete(fields, "resent")
	source, _ := fields["source"].(string)
	if offset, ok := number(fields["offset"]); ok && source != "" {
		e.at = position{source, offset}
		fields["offset"] = offset
	}
	message, _ := fields["message"].(string)
	var inner map[string]any
	if json.Unmarshal([]byte(message), &inner) == nil {
		for k, v := range inner {
			if _, taken := fields[k]; !taken {
				fields[k] = v
			}
		}
	}
	if message == "" {
		fields["message"] = "-" // the store wants one
	}
	fields["@timestamp"] = timestamp(fields, now).UTC().Format(time.RFC3339Nano)
	var err error
	e.json, err = json.Marshal(fields)
	return e, err
}

func number(v any) (int64, bool) {
	switch v := v.(type) {
	case float64:
		return int64(v), v == float64(int64(v))
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// timestamp is when the event happened, as far as it says so: the store drops
// in silence what is far from now.
func timestamp(fields map[string]any, now time.Time) time.Time {
	for _, name := range []string{"time", "@timestamp"} {
		s, _ := fields[name].(string)
		t, err := time.Parse(time.RFC3339Nano, s)
		if err == nil && t.After(now.Add(-24*time.Hour)) && t.Before(now.Add(time.Hour)) {
			if name == "time" {
				delete(fields, "time")
			}
			return t
		}
	}
	return now
}
