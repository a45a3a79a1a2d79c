package shimdata

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// A shim and the daemon exchange frames over the socket of [Target].Attach: one byte that says what it is, three that
// are zero, the length of the data as four bytes, big end first, and the data. Output has the form that Docker's
// clients get (github.com/moby/moby/api/pkg/stdcopy).
const (
	FrameStdin  = 0 // to the shim: input for the container
	FrameStdout = 1 // to the daemon: output of the container
	FrameStderr = 2
	FrameEnd    = 4 // to the shim: the container's input is over. To the daemon: so is the output.
	FrameHello  = 5 // to the daemon, first of all: the time, since when output is sent
)

const frameHead = 8

// MaxFrame is how many bytes a frame holds at most.
const MaxFrame = 64 << 10

// AppendFrame appends a frame, of which data is at most [MaxFrame] bytes.
func AppendFrame(to []byte, kind byte, data []byte) []byte {
	to = append(to, kind, 0, 0, 0)
	to = binary.BigEndian.AppendUint32(to, uint32(len(data)))
	return append(to, data...)
}

// ReadFrame reads one frame into buf, of [MaxFrame] bytes. The error is io.EOF if there is no more.
func ReadFrame(r io.Reader, buf []byte) (kind byte, data []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[4:])
	if n > MaxFrame || head[1]|head[2]|head[3] != 0 {
		return 0, nil, fmt.Errorf("not a frame: % x", head)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, nil, fmt.Errorf("a frame that breaks off: %w", io.ErrUnexpectedEOF)
	}
	return head[0], buf[:n], nil
}

// Hello is the data of FrameHello.
func Hello(t time.Time) []byte { return binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano())) }

// HelloTime reads it.
func HelloTime(b []byte) (time.Time, error) {
	if len(b) != 8 {
		return time.Time{}, fmt.Errorf("a greeting of %d bytes", len(b))
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(b))), nil
}
