package openstack

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gophercloud/gophercloud/v2"
)

func code(n int, body string) error {
	return gophercloud.ErrUnexpectedResponseCode{Actual: n, Body: []byte(body)}
}

// cut is a connection that broke while something was created.
var cut = &url.Error{Op: "Post", URL: "http://cloud.example/", Err: errors.New("EOF")}

// shelf is where things are that a maker makes; names are their own IDs.
type shelf struct {
	things  []string
	creates []func(*shelf) (string, error) // one call after the other
	made    int
	removed []string
	yields  string // is removed by another operator, when it was found three times
	finds   int
}

func (s *shelf) maker() maker[string] {
	return maker[string]{
		what: "thing",
		find: func(context.Context) ([]string, error) {
			if s.finds++; s.finds > 3 {
				s.things = slices.DeleteFunc(s.things, func(t string) bool { return t == s.yields })
			}
			slices.Sort(s.things) // a is older than b
			return slices.Clone(s.things), nil
		},
		create: func(context.Context) (string, error) {
			s.made++
			return s.creates[min(s.made, len(s.creates))-1](s)
		},
		remove: func(_ context.Context, t string) error {
			s.removed = append(s.removed, t)
			s.things = slices.DeleteFunc(s.things, func(o string) bool { return o == t })
			return nil
		},
		id: func(t string) string { return t },
	}
}

func puts(names ...string) func(*shelf) (string, error) {
	return func(s *shelf) (string, error) {
		s.things = append(s.things, names...)
		return names[0], nil
	}
}

func fails(err error, puts ...string) func(*shelf) (string, error) {
	return func(s *shelf) (string, error) {
		s.things = append(s.things, puts...)
		return "", err
	}
}

// However the creation ends, there is one thing in the end, or an error that
// nobody can do anything about here.
func TestEnsure(t *testing.T) {
	for _, c := range []struct {
		name    string
		s       shelf
		want    string
		made    int
		removed string
		says    string
	}{
		{"there already", shelf{things: []string{"a"}}, "a", 0, "", ""},
		{"made", shelf{creates: []func(*shelf) (string, error){puts("a")}}, "a", 1, "", ""},
		{"made, and the answer was lost", shelf{creates: []func(*shelf) (string, error){fails(cut, "a")}}, "a", 1, "", ""},
		{"made, and the answer was an error", shelf{creates: []func(*shelf) (string, error){fails(code(502, ""), "a")}}, "a", 1, "", ""},
		{"not made, and the answer was lost", shelf{creates: []func(*shelf) (string, error){fails(cut), fails(cut), puts("a")}}, "a", 3, "", ""},
		{"busy", shelf{creates: []func(*shelf) (string, error){fails(code(409, `{"x": {"message": "in use"}}`)), puts("a")}}, "a", 2, "", ""},
		{"refused, since it is there", shelf{creates: []func(*shelf) (string, error){fails(code(400, `{"NeutronError": {"message": "overlaps with another subnet"}}`), "a")}}, "a", 1, "", ""},
		{"refused", shelf{creates: []func(*shelf) (string, error){fails(code(400, `{"badRequest": {"message": "no such key"}}`))}}, "", 1, "", "no such key"},
		{"no room", shelf{creates: []func(*shelf) (string, error){fails(code(409, `{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded"}}`))}}, "", 1, "", "Quota exceeded"},
		{"broken for good", shelf{creates: []func(*shelf) (string, error){fails(code(500, ""))}}, "", ensureTries, "", "Internal Server Error"},
		{"another operator was first", shelf{creates: []func(*shelf) (string, error){puts("b", "a")}}, "a", 1, "b", ""},
		{"another operator was second", shelf{creates: []func(*shelf) (string, error){puts("a", "b")}, yields: "b"}, "a", 1, "", ""},
		{"another operator was second, and saw nobody", shelf{creates: []func(*shelf) (string, error){puts("a", "b")}}, "b", 1, "a", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, err := c.s.maker().ensure(t.Context())
				if got != c.want || c.s.made != c.made || strings.Join(c.s.removed, " ") != c.removed {
					t.Errorf("%q, made %d times, removed %v; want %q, %d, %q", got, c.s.made, c.s.removed, c.want, c.made, c.removed)
				}
				if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, want %q", err, c.says)
				}
			})
		})
	}
}

func TestUntilGone(t *testing.T) {
	inUse := code(409, `{"NeutronError": {"type": "PortInUse", "message": "Port is in use"}}`)
	for _, c := range []struct {
		name    string
		answers []error
		tries   int
		says    string
	}{
		{"gone at once", []error{nil}, 1, ""},
		{"gone before", []error{code(404, "")}, 1, ""},
		{"in use for a while", []error{inUse, inUse, nil}, 3, ""},
		{"the answer was lost", []error{cut, code(404, "")}, 2, ""},
		{"forbidden", []error{code(403, `{"forbidden": {"message": "policy"}}`)}, 1, "policy"},
		{"in use for ever", []error{inUse}, 0, "Port is in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				start := time.Now()
				err := untilGone(t.Context(), func(context.Context) error {
					tries++
					return c.answers[min(tries, len(c.answers))-1]
				}, nil)
				if c.tries != 0 && tries != c.tries || (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v after %d tries", err, tries)
				}
				if took := time.Since(start); took > goneTimeout {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// All who wait at the same time share the lists.
func TestPollerShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lists := 0
		begin := time.Now()
		p := newPoller(func(context.Context) ([]server, error) {
			lists++
			if time.Since(begin) < 10*time.Second {
				return []server{{object: object{ID: "s"}, Status: "BUILD"}}, nil
			}
			return []server{{object: object{ID: "s"}, Status: "ACTIVE"}}, nil
		})
		done := make(chan error)
		for range 50 {
			go func() {
				done <- p.byID(t.Context(), "s", func(s *server) (bool, error) { return s != nil && s.Status == "ACTIVE", nil })
			}()
		}
		for range 50 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if lists > 12 {
			t.Errorf("%d lists in 10 s", lists)
		}
	})
}

// A slow cloud is asked for less, and all waits end.
func TestPollerSparesTheCloud(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lists := 0
		p := newPoller(func(ctx context.Context) ([]server, error) {
			lists++
			return nil, sleep(ctx, 2*time.Second)
		})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("too long"))
		defer cancel()
		done := make(chan error)
		for range 3 {
			go func() {
				done <- p.byID(ctx, "s", func(s *server) (bool, error) { return s != nil, nil })
			}()
		}
		for range 3 {
			if err := <-done; err == nil || err.Error() != "too long" {
				t.Errorf("the wait ended with %v", err)
			}
		}
		if lists > 8 {
			t.Errorf("%d lists of 2 s in a minute", lists)
		}
	})
}
