package lumberjack

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

func number(n int) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(n)))
}

func event(seq int, json string) string { return "2J" + number(seq) + number(len(json)) + json }

func packed(s string) string {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write([]byte(s))
	z.Close()
	return "2C" + number(b.Len()) + b.String()
}

func TestFrames(t *testing.T) {
	v1 := "1D" + number(1) + number(1) + number(4) + "line" + number(2) + "hi"
	two := event(1, `{"a":1}`) + event(2, `{"a":2}`)
	for _, c := range []struct{ name, in, want, err string }{
		{"version 2", "2W" + number(2) + two, "2W" + number(2) + two, ""},
		{"version 1", "1W" + number(1) + v1, "1W" + number(1) + v1, ""},
		{"compressed", "2W" + number(2) + packed(two) + "2W" + number(1) + event(1, "{}"), "2W" + number(2) + two + "2W" + number(1) + event(1, "{}"), ""},
		{"window too large", "2W" + number(MaxWindow+1), "", "more than is allowed"},
		{"event too large", "2W" + number(1) + "2J" + number(1) + number(MaxFrame+1), "2W" + number(1), "more than is allowed"},
		{"value too large", "1D" + number(1) + number(1) + number(1<<31), "", "more than is allowed"},
		{"too many pairs", "1D" + number(1) + number(1<<31), "", "more than is allowed"},
		{"pairs too large together", "1D" + number(1) + number(4) + strings.Repeat(number(1<<18)+strings.Repeat("x", 1<<18), 8), "", "more than is allowed"},
		{"compressed too large", "2C" + number(MaxCompressed+1), "", "more than is allowed"},
		{"too large inside", packed("2J" + number(1) + number(MaxFrame+1)), "", "more than is allowed"},
		{"compressed in compressed", packed(packed(two)), "", `unexpected frame 'C'`},
		{"cut off", event(1, `{"a":1}`)[:12], "", "unexpected EOF"},
		{"cut off inside", packed(two[:20]), two[:len(two)/2], "unexpected EOF"},
		{"not Lumberjack", "GET / HTTP/1.1\r\n", "", "no version"},
		{"JSON in version 1", "1J" + number(1), "", "unexpected frame"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := io.ReadAll(newFrames(strings.NewReader(c.in)))
			if string(got) != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

// A few bytes that unpack to gigabytes must not be unpacked to the end.
func TestFramesBomb(t *testing.T) {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	one := []byte(strings.Repeat(event(1, strings.Repeat(" ", 1<<10)), 1<<10))
	for range MaxUnpacked/len(one) + 2 {
		_, _ = z.Write(one)
	}
	z.Close()
	n, err := io.Copy(io.Discard, newFrames(strings.NewReader("2C"+number(b.Len())+b.String())))
	if err == nil || n > MaxUnpacked {
		t.Errorf("%d bytes of %d came out, error %v", n, b.Len(), err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("2W" + number(1) + event(1, "{}")))
	f.Add([]byte(packed(event(1, "{}"))))
	f.Fuzz(func(t *testing.T, in []byte) {
		fr := newFrames(bytes.NewReader(in))
		for fr.next() == nil {
			if fr.out.Len() > MaxFrame+MaxFrame {
				t.Fatalf("%d bytes are held", fr.out.Len())
			}
			fr.out.Reset()
		}
	})
}
