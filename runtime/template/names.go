package template

import (
	"maps"
	"reflect"
	"slices"
)

// FunctionNames are the names of the functions that templates can call, for
// the reference.
func FunctionNames() []string { return slices.Sorted(maps.Keys(functions(nil, false))) }

// ResourceKeys are the keys of a template resource.
func ResourceKeys() []string {
	var keys []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[resourceFile]().Field(0).Type) {
		keys = append(keys, f.Tag.Get("toml"))
	}
	return keys
}
