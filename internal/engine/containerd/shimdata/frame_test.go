package shimdata

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

func TestFrames(t *testing.T) {
	now := time.Unix(7, 9)
	b := AppendFrame(nil, FrameHello, Hello(now))
	b = AppendFrame(b, FrameStdout, []byte("out"))
	b = AppendFrame(b, FrameEnd, nil)
	r, buf := bytes.NewReader(b), make([]byte, MaxFrame)
	kind, data, err := ReadFrame(r, buf)
	if at, herr := HelloTime(data); err != nil || herr != nil || kind != FrameHello || !at.Equal(now) {
		t.Errorf("hello: %d %v %v %v", kind, at, err, herr)
	}
	if kind, data, err = ReadFrame(r, buf); err != nil || kind != FrameStdout || string(data) != "out" {
		t.Errorf("output: %d %q %v", kind, data, err)
	}
	if kind, data, err = ReadFrame(r, buf); err != nil || kind != FrameEnd || len(data) != 0 {
		t.Errorf("end: %d %q %v", kind, data, err)
	}
	if _, _, err = ReadFrame(r, buf); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	if _, _, err := ReadFrame(bytes.NewReader(b[:len(b)-10]), buf); err != nil {
		t.Errorf("the first of a stream that breaks off: %v", err)
	}
	if _, _, err := ReadFrame(bytes.NewReader(AppendFrame(nil, FrameStdout, []byte("out"))[:9]), buf); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("broken off: %v", err)
	}
	if _, _, err := ReadFrame(bytes.NewReader([]byte{1, 0, 0, 0, 0xff, 0, 0, 0}), buf); err == nil {
		t.Error("a frame of 4 GB was taken")
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, FrameStderr, []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, buf := bytes.NewReader(b), make([]byte, MaxFrame)
		for {
			kind, data, err := ReadFrame(r, buf)
			if err != nil {
				return
			}
			if again := AppendFrame(nil, kind, data); !bytes.Contains(b, again) {
				t.Errorf("read %x of %x", again, b)
			}
		}
	})
}
