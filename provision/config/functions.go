package config

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// functions are what a cluster file can call. Their names and meanings are
// those known from Terraform and Packer.
func functions(dir string) map[string]function.Function {
	return map[string]function.Function{
		"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "floor": stdlib.FloorFunc,
		"max": stdlib.MaxFunc, "min": stdlib.MinFunc,
		"chomp": stdlib.ChompFunc, "format": stdlib.FormatFunc, "join": stdlib.JoinFunc,
		"lower": stdlib.LowerFunc, "upper": stdlib.UpperFunc, "title": stdlib.TitleFunc,
		"replace": stdlib.ReplaceFunc, "regex": stdlib.RegexFunc, "split": stdlib.SplitFunc,
		"substr": stdlib.SubstrFunc, "trim": stdlib.TrimFunc, "trimprefix": stdlib.TrimPrefixFunc,
		"trimspace": stdlib.TrimSpaceFunc, "trimsuffix": stdlib.TrimSuffixFunc,
		"coalesce": stdlib.CoalesceFunc, "compact": stdlib.CompactFunc, "concat": stdlib.ConcatFunc,
		"contains": stdlib.ContainsFunc, "distinct": stdlib.DistinctFunc, "element": stdlib.ElementFunc,
		"flatten": stdlib.FlattenFunc, "keys": stdlib.KeysFunc, "length": stdlib.LengthFunc,
		"lookup": stdlib.LookupFunc, "merge": stdlib.MergeFunc, "range": stdlib.RangeFunc,
		"reverse": stdlib.ReverseListFunc, "slice": stdlib.SliceFunc, "sort": stdlib.SortFunc,
		"values": stdlib.ValuesFunc, "zipmap": stdlib.ZipmapFunc,
		"jsondecode": stdlib.JSONDecodeFunc, "jsonencode": stdlib.JSONEncodeFunc,
		"can": tryfunc.CanFunc, "try": tryfunc.TryFunc,
		"env": envFunc, "file": fileFunc(dir),
		"cidrhost": cidrHostFunc, "cidrsubnet": cidrSubnetFunc,
	}
}

// env(name) is the environment variable's value, empty if it is not set.
var envFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "name", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		return cty.StringVal(os.Getenv(args[0].AsString())), nil
	},
})

// file(path) is a file's contents; the path starts at the cluster file.
func fileFunc(dir string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			name := args[0].AsString()
			if !filepath.IsAbs(name) {
				name = filepath.Join(dir, name)
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			return cty.StringVal(string(data)), nil
		},
	})
}

// cidrhost(prefix, n) is address number n of an IPv4 network.
var cidrHostFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "prefix", Type: cty.String}, {Name: "n", Type: cty.Number}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		prefix, err := ipv4Prefix(args[0].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		n, _ := args[1].AsBigFloat().Int64()
		if n < 0 || n >= 1<<(32-prefix.Bits()) {
			return cty.NilVal, function.NewArgErrorf(1, "%s has no address number %d", prefix, n)
		}
		return cty.StringVal(offset(prefix.Addr(), uint32(n)).String()), nil
	},
})

// cidrsubnet(prefix, newbits, n) is network number n of those that are newbits
// longer than the prefix.
var cidrSubnetFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "prefix", Type: cty.String}, {Name: "newbits", Type: cty.Number}, {Name: "n", Type: cty.Number}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		prefix, err := ipv4Prefix(args[0].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		newbits, _ := args[1].AsBigFloat().Int64()
		n, _ := args[2].AsBigFloat().Int64()
		bits := prefix.Bits() + int(newbits)
		if newbits < 0 || bits > 32 {
			return cty.NilVal, function.NewArgErrorf(1, "%s can't be %d bits longer", prefix, newbits)
		}
		if n < 0 || n >= 1<<newbits {
			return cty.NilVal, function.NewArgErrorf(2, "there are %d such networks in %s, numbered from 0", 1<<newbits, prefix)
		}
		return cty.StringVal(netip.PrefixFrom(offset(prefix.Addr(), uint32(n)<<(32-bits)), bits).String()), nil
	},
})

func ipv4Prefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return p, function.NewArgErrorf(0, "%q is no IPv4 network such as 10.42.0.0/24", s)
	}
	return p.Masked(), nil
}

func offset(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	return netip.AddrFrom4(b)
}
