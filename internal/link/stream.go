package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// stream is a yamux stream with the manners of a TCP connection, which net/http and hijackers count on: CloseWrite
// ends one direction and leaves the other open for as long as it takes; Close ends both at once, wakes who is reading or writing, and lets
// the other end's writes fail instead of filling a window that nobody empties. yamux alone can do only the first.
type stream struct {
	*yamux.Stream
	link *Link
	// release gives the slot of an accepted stream back; nil for one that was opened here.
	release func()

	sawEnd  atomic.Bool // the other end sends no more
	stopped atomic.Bool // the other end reads no more
	closed  atomic.Bool
	once    sync.Once
}

var _ net.Conn = (*stream)(nil)

// past is a deadline that is over.
var past = time.Unix(1, 0)

// Read reads what the other end sent. It returns io.EOF only where that end said that it sends no more.
func (s *stream) Read(p []byte) (int, error) {
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := s.Stream.Read(p)
	switch {
	case err == nil:
		return n, nil
	case s.closed.Load():
		return n, net.ErrClosed
	case err == io.EOF && s.link.mux.IsClosed():
		// yamux ends all streams alike when the connection breaks; that must not look like an orderly end.
		return n, s.link.broken()
	case err == io.EOF:
		s.sawEnd.Store(true)
		return n, io.EOF
	}
	return n, s.translate(err)
}

// Write sends in parts of at most maxFrame.
func (s *stream) Write(p []byte) (n int, err error) {
	for {
		part := p[n:min(len(p), n+maxFrame)]
		if s.closed.Load() {
			return n, net.ErrClosed
		}
		if s.stopped.Load() {
			return n, syscall.EPIPE
		}
		k, err := s.Stream.Write(part)
		n += k
		if err != nil {
			return n, s.translate(err)
		}
		if n == len(p) {
			return n, nil
		}
	}
}

// translate makes yamux's errors those of a TCP connection.
func (s *stream) translate(err error) error {
	switch {
	case s.closed.Load():
		return net.ErrClosed
	case s.link.mux.IsClosed():
		return s.link.broken()
	case s.stopped.Load():
		return syscall.EPIPE
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrConnectionReset):
		return syscall.ECONNRESET
	case errors.Is(err, yamux.ErrStreamClosed):
		return net.ErrClosed
	}
	return err
}

// CloseWrite says that no more will be sent.
func (s *stream) CloseWrite() error { return s.Stream.Close() }

// Close ends both directions. What was written before still arrives.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.closed.Store(true)
		_ = s.Stream.Close() // fails only where the link is gone
		_ = s.Stream.SetDeadline(past)
		if !s.sawEnd.Load() {
			s.link.control.stop(s.StreamID())
		}
		s.link.remove(s)
		if s.release != nil {
			s.release()
		}
	})
	return nil
}

// stop is called when the other end reads no more.
func (s *stream) stop() {
	s.stopped.Store(true)
	_ = s.Stream.SetWriteDeadline(past)
	// What it sent before can still be read here. Ending our direction, too, lets yamux forget the stream.
	_ = s.Stream.Close()
}

// SetDeadline sets both deadlines, unless the stream is closed: then they stay in the past.
func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline sets the deadline of reads.
func (s *stream) SetReadDeadline(t time.Time) error {
	if err := s.Stream.SetReadDeadline(t); err != nil {
		return err
	}
	if s.closed.Load() {
		return s.Stream.SetReadDeadline(past)
	}
	return nil
}

// SetWriteDeadline sets the deadline of writes.
func (s *stream) SetWriteDeadline(t time.Time) error {
	if err := s.Stream.SetWriteDeadline(t); err != nil {
		return err
	}
	if s.closed.Load() || s.stopped.Load() {
		return s.Stream.SetWriteDeadline(past)
	}
	return nil
}

// broken is the error of a stream whose link ended.
func (l *Link) broken() error {
	return fmt.Errorf("the link to node %s at %s broke: %w", l.peer.NodeID, l.conn.RemoteAddr(), io.ErrUnexpectedEOF)
}
