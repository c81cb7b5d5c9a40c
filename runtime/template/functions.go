package template

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// functions are what a template can call: confd's names and meanings. With
// orEmpty a key that does not exist is one without a value.
func functions(k Keys, orEmpty bool) template.FuncMap {
	f := template.FuncMap{
		"exists": k.exists,
		"get":    k.get,
		"gets":   k.gets,
		"getv":   k.getv,
		"getvs":  k.getvs,
		"ls":     k.ls,
		"lsdir":  k.lsdir,

		"Base":       path.Base, // confd 0.3's only function
		"base":       path.Base,
		"dir":        path.Dir,
		"split":      strings.Split,
		"join":       strings.Join,
		"replace":    strings.Replace,
		"contains":   strings.Contains,
		"trimSuffix": strings.TrimSuffix,
		"toUpper":    strings.ToUpper,
		"toLower":    strings.ToLower,

		"json":         parseObject,
		"jsonArray":    parseArray,
		"map":          newMap,
		"base64Encode": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64Decode": base64Decode,
		"parseBool":    strconv.ParseBool,
		"atoi":         strconv.Atoi,

		"getenv":     getenv,
		"datetime":   time.Now,
		"fileExists": fileExists,

		"lookupIP":   func(host string) []string { return lookup(host, func(net.IP) bool { return true }) },
		"lookupIPV4": func(host string) []string { return lookup(host, func(ip net.IP) bool { return ip.To4() != nil }) },
		"lookupIPV6": func(host string) []string { return lookup(host, func(ip net.IP) bool { return ip.To4() == nil }) },
		"lookupSRV":  lookupSRV,

		"reverse":        reverse,
		"sortByLength":   sortByLength,
		"sortKVByLength": sortKVByLength,

		"add": func(a, b int) int { return a + b },
		"sub": func(a, b int) int { return a - b },
		"mul": func(a, b int) int { return a * b },
		"div": func(a, b int) (int, error) { return divide(a, b, a/nonZero(b)) },
		"mod": func(a, b int) (int, error) { return divide(a, b, a%nonZero(b)) },
		"seq": seq,
	}
	if orEmpty {
		f["get"], f["getv"] = k.getOrEmpty, k.getvOrEmpty
	}
	return f
}

func parseObject(s string) (map[string]any, error) {
	var v map[string]any
	err := json.Unmarshal([]byte(s), &v)
	return v, err
}

func parseArray(s string) ([]any, error) {
	var v []any
	err := json.Unmarshal([]byte(s), &v)
	return v, err
}

func newMap(args ...any) (map[string]any, error) {
	if len(args)%2 != 0 {
		return nil, errors.New("map takes pairs of a key and a value")
	}
	m := make(map[string]any, len(args)/2)
	for i := 0; i < len(args); i += 2 {
		key, ok := args[i].(string)
		if !ok {
			return nil, fmt.Errorf("map: key %v is no string", args[i])
		}
		m[key] = args[i+1]
	}
	return m, nil
}

func base64Decode(s string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	return string(b), err
}

func getenv(name string, fallback ...string) string {
	if v := os.Getenv(name); v != "" || len(fallback) == 0 {
		return v
	}
	return fallback[0]
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// lookup returns the host's addresses, sorted; none when it can't be resolved.
func lookup(host string, want func(net.IP) bool) []string {
	ips, err := net.LookupIP(host)
	if err != nil {
		return nil
	}
	var out []string
	for _, ip := range ips {
		if want(ip) {
			out = append(out, ip.String())
		}
	}
	slices.Sort(out)
	return out
}

func lookupSRV(service, proto, name string) []*net.SRV {
	_, addrs, err := net.LookupSRV(service, proto, name)
	if err != nil {
		return nil
	}
	// The resolver shuffles by weight; an unchanged answer must render the same.
	slices.SortFunc(addrs, func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Weight, b.Weight))
	})
	return addrs
}

// reverse takes a list of strings or of pairs and returns it turned round.
func reverse(list any) (any, error) {
	switch l := list.(type) {
	case []string:
		l = slices.Clone(l)
		slices.Reverse(l)
		return l, nil
	case []Pair:
		l = slices.Clone(l)
		slices.Reverse(l)
		return l, nil
	}
	return nil, fmt.Errorf("reverse: %T is neither a list of strings nor of pairs", list)
}

func sortByLength(list []string) []string {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b string) int { return len(a) - len(b) })
	return list
}

func sortKVByLength(list []Pair) []Pair {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Pair) int { return len(a.Key) - len(b.Key) })
	return list
}

func nonZero(b int) int {
	if b == 0 {
		return 1
	}
	return b
}

func divide(a, b, quotient int) (int, error) {
	if b == 0 {
		return 0, fmt.Errorf("%d divided by zero", a)
	}
	return quotient, nil
}

// seq returns the numbers from first to last, none if last is the smaller one.
func seq(first, last int) ([]int, error) {
	const most = 1_000_000
	if last >= first && uint(last-first) >= most {
		return nil, fmt.Errorf("seq %d %d: more than %d numbers", first, last, most)
	}
	var s []int
	for i := first; i <= last; i++ {
		s = append(s, i)
	}
	return s, nil
}
