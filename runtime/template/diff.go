package template

import (
	"fmt"
	"os"

	"github.com/rogpeppe/go-internal/diff"
)

// diff writes what becomes of a file. after nil: it is removed.
func (o Options) diff(name string, before *previous, after []byte, mode os.FileMode) {
	if o.Diff == nil {
		return
	}
	var old []byte
	was := "/dev/null"
	if before != nil {
		old, was = before.content, name
		if before.mode != mode {
			fmt.Fprintf(o.Diff, "%s: mode %04o becomes %04o\n", name, before.mode, mode)
		}
	}
	will := name
	if after == nil {
		will = "/dev/null"
	}
	if mode&0o004 == 0 || before != nil && before.mode&0o004 == 0 {
		fmt.Fprintf(o.Diff, "%s changes; what is in it is not for everybody and not shown\n", name)
		return
	}
	_, _ = o.Diff.Write(diff.Diff(was, old, will, after))
}
