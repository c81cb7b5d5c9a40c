package join

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"
)

func TestCheckSnapshot(t *testing.T) {
	data := []byte("what etcd holds")
	sum := sha256.Sum256(data)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"whole":       {append(bytes.Clone(data), sum[:]...), ""},
		"empty":       {nil, "no whole snapshot"},
		"a sum alone": {sum[:], "no whole snapshot"},
		"cut short":   {append(bytes.Clone(data), sum[:20]...), "wrong checksum"},
		"spoilt":      {append([]byte("What etcd holds"), sum[:]...), "wrong checksum"},
		"no sum":      {bytes.Repeat(data, 9), "wrong checksum"},
	} {
		err := checkSnapshot(bytes.NewReader(c.file), int64(len(c.file)))
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
