package forwarder

import (
	"bytes"
	"io"
	"os"
	"time"
)

// Limits of a batch and a line, in lines and bytes.
const (
	maxBatch = 1000
	maxRead  = 1 << 20
	maxLine  = 64 << 10 // what is longer is cut
)

// file is one that is followed. It stays open, so that what was removed is
// still read to its end.
type file struct {
	*entry
	f *os.File
	// sent is how far it may have been sent before: what comes again is
	// marked, and the collector looks whether it is stored.
	sent int64
	seen time.Time // when it last had a name that is followed
}

// line is a line of a file, without its newline.
type line struct {
	offset int64
	text   []byte
	cut    bool // it was too long
}

// lines reads whole lines from the offset on, and says where the next begins.
func (f *file) lines() (ls []line, next int64, err error) {
	buf := make([]byte, maxRead)
	n, err := f.f.ReadAt(buf, f.Offset)
	if err != nil && err != io.EOF {
		return nil, 0, err
	}
	buf, next = buf[:n], f.Offset
	for len(ls) < maxBatch {
		end := bytes.IndexByte(buf, '\n')
		skip := end + 1
		if end < 0 {
			if len(ls) > 0 || len(buf) < maxRead {
				break // the rest is to come
			}
			end, skip = len(buf), len(buf) // a line without end
		}
		l := line{offset: next, text: bytes.TrimSuffix(buf[:end], []byte("\r"))}
		if len(l.text) > maxLine {
			l.text, l.cut = l.text[:maxLine], true
		}
		ls = append(ls, l)
		buf, next = buf[skip:], next+int64(skip)
	}
	return ls, next, nil
}
