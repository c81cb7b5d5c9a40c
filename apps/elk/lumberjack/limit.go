package lumberjack

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// What a peer may send at most. go-lumber allocates what a frame's header
// claims before it has come, and unpacks without end.
const (
	MaxWindow     = 1 << 14 // events between two ACKs
	MaxFrame      = 1 << 20 // bytes of one event
	MaxCompressed = 8 << 20 // bytes of a compressed frame, as it comes
	MaxUnpacked   = 64 << 20
)

// handshakeTimeout is for the TLS handshake and the first byte after it.
const handshakeTimeout = 10 * time.Second

// Limit returns a listener whose connections end when a frame breaks a limit
// or the protocol. Compressed frames are unpacked on the way, so that what is
// inside is looked at too. refused is told of it.
func Limit(l net.Listener, refused func(peer net.Addr, err error)) net.Listener {
	return limited{l, refused}
}

type limited struct {
	net.Listener
	refused func(net.Addr, error)
}

func (l limited) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		c.Close()
		return l.Accept()
	}
	return &conn{Conn: c, frames: newFrames(c), refused: l.refused}, nil
}

type conn struct {
	net.Conn
	frames  *frames
	begun   bool
	refused func(net.Addr, error)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.frames.Read(p)
	if errors.Is(err, errTooMuch) || errors.Is(err, errProtocol) {
		c.refused(c.RemoteAddr(), err)
	}
	if n > 0 && !c.begun {
		c.begun = true
		if err := c.Conn.SetDeadline(time.Time{}); err != nil {
			return 0, err
		}
	}
	return n, err
}

// frames reads whole frames of Lumberjack 1 and 2 and hands on those that are
// within the limits.
type frames struct {
	in     *bufio.Reader
	out    bytes.Buffer
	inside io.Reader // of a compressed frame
	packed io.Reader // what is left of it as it came
	err    error
}

func newFrames(r io.Reader) *frames { return &frames{in: bufio.NewReader(r)} }

func (f *frames) Read(p []byte) (int, error) {
	for f.out.Len() == 0 {
		if f.err != nil {
			return 0, f.err
		}
		f.err = f.next()
	}
	return f.out.Read(p)
}

var (
	errTooMuch  = errors.New("a peer sends more than is allowed")
	errProtocol = errors.New("a peer does not speak Lumberjack")
)

// next takes one frame over into out.
func (f *frames) next() error {
	if f.inside == nil {
		return f.frame(f.in, true)
	}
	err := f.frame(f.inside, false)
	if err == io.EOF { // between two frames: all is unpacked
		f.inside = nil
		_, err = io.Copy(io.Discard, f.packed)
	}
	return err
}

func (f *frames) frame(r io.Reader, outer bool) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	version, kind := head[0], head[1]
	if version != '1' && version != '2' {
		return fmt.Errorf("%w: there is no version %q", errProtocol, version)
	}
	if kind == 'C' && outer {
		return f.unpack()
	}
	f.out.Write(head[:])
	var err error
	switch {
	case kind == 'W':
		err = f.number(r, MaxWindow, nil)
	case kind == 'J' && version == '2':
		var size uint32
		if err = f.number(r, 1<<32-1, nil); err == nil { // sequence number
			if err = f.number(r, MaxFrame, &size); err == nil {
				err = f.copy(r, size)
			}
		}
	case kind == 'D' && version == '1':
		err = f.pairs(r)
	default:
		err = fmt.Errorf("%w: unexpected frame %q of version %c", errProtocol, kind, version)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		f.out.Reset() // a part of a frame is none
	}
	return err
}

// pairs takes over the keys and values of a data frame of version 1.
func (f *frames) pairs(r io.Reader) error {
	var count uint32
	if err := f.number(r, 1<<32-1, nil); err != nil {
		return err
	}
	if err := f.number(r, MaxFrame/8, &count); err != nil {
		return err
	}
	for range 2 * count {
		var size uint32
		if err := f.number(r, MaxFrame, &size); err != nil {
			return err
		}
		if err := f.copy(r, size); err != nil {
			return err
		}
		if f.out.Len() > MaxFrame {
			return errTooMuch
		}
	}
	return nil
}

// number takes over a number that may be most at most.
func (f *frames) number(r io.Reader, most uint32, to *uint32) error {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(b[:])
	if n > most {
		return errTooMuch
	}
	if to != nil {
		*to = n
	}
	f.out.Write(b[:])
	return nil
}

func (f *frames) copy(r io.Reader, n uint32) error {
	_, err := io.CopyN(&f.out, r, int64(n))
	return err
}

func (f *frames) unpack() error {
	var b [4]byte
	if _, err := io.ReadFull(f.in, b[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(b[:])
	if n > MaxCompressed {
		return errTooMuch
	}
	packed := io.LimitReader(f.in, int64(n))
	z, err := zlib.NewReader(packed)
	if err != nil {
		return err
	}
	f.packed, f.inside = packed, &capped{z, MaxUnpacked}
	return nil
}

// capped is a reader that fails, not ends, when there is more.
type capped struct {
	r    io.Reader
	left int
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooMuch
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}
