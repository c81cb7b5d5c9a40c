package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
)

// nearest returns ` Did you mean "…"?` for the known name that is nearest, or
// nothing if none is near.
func nearest(name string, known []string) string {
	best, dist := "", len(name)/2+1
	for _, k := range known {
		if d := levenshtein.Distance(name, k, nil); d < dist {
			best, dist = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" Did you mean %q?", best)
}

var (
	unknownName     = regexp.MustCompile(`(?:argument named|Blocks of type|block type) "([^"]+)"`)
	unknownVar      = regexp.MustCompile(`There is no variable named "([^"]+)"`)
	unknownAttr     = regexp.MustCompile(`attribute named "([^"]+)"`)
	unknownFunction = regexp.MustCompile(`There is no function named "([^"]+)"`)
	alreadyAnswered = regexp.MustCompile(`Did you mean`)
)

// didYouMean adds the nearest known name to diagnostics of HCL's own that
// speak of an unknown one.
func didYouMean(diags hcl.Diagnostics, known []string, ctx *hcl.EvalContext) hcl.Diagnostics {
	for _, d := range diags {
		if alreadyAnswered.MatchString(d.Detail) {
			continue
		}
		candidates := []struct {
			pattern *regexp.Regexp
			known   []string
		}{
			{unknownName, known},
			{unknownVar, slices.Collect(maps.Keys(ctx.Variables))},
			{unknownFunction, slices.Collect(maps.Keys(ctx.Functions))},
			{unknownAttr, attributes(ctx)},
		}
		for _, c := range candidates {
			if m := c.pattern.FindStringSubmatch(d.Detail); m != nil {
				d.Detail += nearest(m[1], c.known)
				break
			}
		}
	}
	return diags
}

// attributes are the names below var and local.
func attributes(ctx *hcl.EvalContext) []string {
	var names []string
	for _, v := range ctx.Variables {
		if v.Type().IsObjectType() {
			names = append(names, slices.Collect(maps.Keys(v.Type().AttributeTypes()))...)
		}
	}
	return names
}
