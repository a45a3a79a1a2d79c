package tasklog

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func FuzzReadRecord(f *testing.F) {
	at := time.Unix(1700000000, 5).UTC()
	f.Add(appendRecord(appendRecord(nil, recordStdout, at, []byte("hello\n")), recordEnd, at, nil))
	f.Add(appendRecord(nil, recordError, at, []byte("no")))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 'x'})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), 64)
		for range len(data)/headerSize + 1 {
			l, err := readRecord(r)
			if err != nil {
				return
			}
			if len(l.Line) > len(data) || l.Stream != "stdout" && l.Stream != "stderr" {
				t.Fatalf("%q gives %+v", data, l)
			}
		}
		t.Fatalf("%q never ends", data)
	})
}

func TestAStreamWithoutAnEndWasCutOff(t *testing.T) {
	at := time.Unix(1700000000, 5).UTC()
	long := []byte(strings.Repeat("x", 100_000))
	whole := appendRecord(appendRecord(nil, recordStderr, at, long), recordEnd, at, nil)
	r := bufio.NewReader(bytes.NewReader(whole))
	if l, err := readRecord(r); err != nil || l.Stream != "stderr" || !l.Time.Equal(at) || !bytes.Equal(l.Line, long) {
		t.Fatalf("%s, %v", l.Stream, err)
	}
	if _, err := readRecord(r); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
	for _, n := range []int{0, 5, headerSize, 50_000, len(whole) - 1} {
		r := bufio.NewReader(bytes.NewReader(whole[:n]))
		_, err := readRecord(r)
		if err == nil {
			_, err = readRecord(r)
		}
		if !errors.Is(err, errCut) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
}
