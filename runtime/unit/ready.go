package unit

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// parse reads http://[host]:port/path, tcp://[host]:port or exec:command.
func (r *Ready) parse(s string) error {
	if r.Interval == 0 {
		r.Interval = DefaultReadyInterval
	}
	if r.Timeout == 0 {
		r.Timeout = DefaultReadyTimeout
	}
	if s == "" {
		return nil
	}
	if cmd, ok := strings.CutPrefix(s, "exec:"); ok {
		words, err := SplitWords(cmd)
		if err != nil {
			return err
		}
		if len(words) == 0 {
			return fmt.Errorf("exec: names no command")
		}
		r.Kind, r.Command = "exec", words
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "tcp" {
		return fmt.Errorf("%q is none of http://:PORT/PATH, tcp://:PORT, exec:COMMAND", s)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil || port < 1 || port > 65535 {
		return fmt.Errorf("%q names no port from 1 to 65535", s)
	}
	if u.Scheme == "tcp" && u.Path != "" {
		return fmt.Errorf("%q: a tcp check has no path", s)
	}
	r.Kind, r.Host, r.Port = u.Scheme, u.Hostname(), port
	if r.Kind == "http" {
		if r.Path = u.RequestURI(); r.Path == "" {
			r.Path = "/"
		}
	}
	return nil
}
