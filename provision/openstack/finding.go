package openstack

import (
	"fmt"
	"strings"
)

// Finding is something in a plan that the cloud would refuse, and what to do
// about it.
type Finding struct {
	Problem string `json:"problem"`
	Remedy  string `json:"remedy"`
}

// Findings is the error of a plan that can't be carried out.
type Findings []Finding

func (f Findings) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "this plan can't be carried out; nothing was changed:")
	for _, x := range f {
		fmt.Fprintf(&b, "\n  - %s\n    %s", x.Problem, x.Remedy)
	}
	return b.String()
}
