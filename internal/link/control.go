package link

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// The first stream of a link carries frames of 5 bytes both ways: a kind and a number.
const (
	frameSize = 5

	frameBeat = 1 // nothing, so that there is something to hear
	frameStop = 2 // the sender reads no more from the stream with this number
	frameDead = 3 // the sender closes the link after so many milliseconds of silence
)

// control writes the frames of a link.
type control struct {
	s    *yamux.Stream
	wake chan struct{} // capacity 1

	mu    sync.Mutex
	stops []uint32
	every time.Duration // how often the other end wants to hear us
}

func newControl(s *yamux.Stream) *control {
	return &control{s: s, wake: make(chan struct{}, 1), every: beat}
}

// stop says, soon, that the stream is not read any more. It does not wait.
func (c *control) stop(id uint32) {
	c.mu.Lock()
	c.stops = append(c.stops, id)
	c.mu.Unlock()
	c.poke()
}

func (c *control) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// setEvery takes in how long the other end bears silence.
func (c *control) setEvery(dead time.Duration) {
	c.mu.Lock()
	c.every = max(min(beat, dead/4), time.Millisecond)
	c.mu.Unlock()
	c.poke()
}

// take returns what there is to send, and how long to wait for more.
func (c *control) take() ([]byte, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []byte
	for _, id := range c.stops {
		out = appendFrame(out, frameStop, id)
	}
	c.stops = nil
	return out, c.every
}

// write sends until done is closed or the link breaks, which others notice.
func (c *control) write(done <-chan struct{}, deadAfter time.Duration) {
	out := appendFrame(nil, frameDead, uint32(max(1, deadAfter.Milliseconds())))
	timer := time.NewTimer(beat)
	defer timer.Stop()
	for {
		if len(out) > 0 {
			if _, err := c.s.Write(out); err != nil {
				return
			}
		}
		var wait time.Duration
		if out, wait = c.take(); len(out) > 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
			out = appendFrame(nil, frameBeat, 0)
		case <-c.wake:
		case <-done:
			return
		}
	}
}

// read handles what the other end sends until the link breaks.
func (c *control) read(stop func(id uint32)) error {
	var f [frameSize]byte
	for {
		if _, err := io.ReadFull(c.s, f[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(f[1:])
		switch f[0] {
		case frameBeat:
		case frameStop:
			stop(n)
		case frameDead:
			c.setEvery(time.Duration(n) * time.Millisecond)
		default:
			return fmt.Errorf("unknown control frame %d", f[0])
		}
	}
}

func appendFrame(b []byte, kind byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, kind), n)
}
