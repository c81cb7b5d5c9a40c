package main

import (
	"flag"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"plasmid/runtime/template"
)

// The reference names every flag, every key of the files and every function.
func TestDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/confd.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	var usage strings.Builder
	if _, err := parseSettings([]string{"-help"}, &usage); err != flag.ErrHelp {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^  (-[a-z-]+)`).FindAllStringSubmatch(usage.String(), -1) {
		want = append(want, m[1])
	}
	if len(want) < 30 {
		t.Fatalf("only these flags were found: %v", want)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[table]()) {
		if tag := f.Tag.Get("toml"); !strings.HasPrefix(tag, "etcd_") {
			want = append(want, tag)
		}
	}
	want = append(want, template.FunctionNames()...)
	want = append(want, template.ResourceKeys()...)
	want = append(want, metricNames(t)...)
	for _, w := range want {
		if !regexp.MustCompile("[`, ]" + regexp.QuoteMeta(w) + "[`, ]").MatchString(doc) {
			t.Errorf("docs/confd.md does not name %s", w)
		}
	}
}

// metricNames are the names of all metrics, in the way that they are registered.
func metricNames(t *testing.T) []string {
	var names registered
	template.NewMetrics(&names)
	if len(names) < 5 {
		t.Errorf("only these metrics: %v", names)
	}
	return names
}

// registered notes the names of what is registered.
type registered []string

func (r *registered) Register(c prometheus.Collector) error { r.MustRegister(c); return nil }
func (r *registered) Unregister(prometheus.Collector) bool  { return false }
func (r *registered) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		ch := make(chan *prometheus.Desc, 10)
		c.Describe(ch)
		close(ch)
		for d := range ch {
			*r = append(*r, regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1])
		}
	}
}
