package httpapi

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types"

	"shoal.dev/shoal/internal/engine"
)

// farewell is how long a client may take to close its end of a connection once everything was said.
const farewell = 5 * time.Second

// closeWriter is what a connection needs beside net.Conn so that one direction can end before the other: a TCP or Unix
// socket, or a stream of a link.
type closeWriter interface{ CloseWrite() error }

// hijacked is a connection that carries a container's streams, in both directions at once, instead of HTTP.
type hijacked struct {
	conn  net.Conn
	in    io.Reader // what of the connection was read already, then the connection
	muxed bool
	mu    sync.Mutex // a frame at a time
	buf   []byte
}

// hijack takes the connection over and says so to the client: with status 101 if it asked for an upgrade, else with
// 200, which clients before API 1.20, and a plain `curl`, understand.
func (c *call) hijack(muxed bool) (*hijacked, error) {
	conn, rw, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("taking over the connection: %w", err)
	}
	// No status is to be written by anybody else from here on.
	c.w.status = http.StatusSwitchingProtocols
	if err := conn.SetDeadline(time.Time{}); err != nil { // the server's, for the head of a request
		conn.Close()
		return nil, err
	}
	var head bytes.Buffer
	mediaType := types.MediaTypeRawStream
	if c.Header.Get("Upgrade") != "" {
		if muxed && c.since(42) {
			mediaType = types.MediaTypeMultiplexedStream
		}
		head.WriteString("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n")
	} else {
		c.w.status = http.StatusOK
		head.WriteString("HTTP/1.1 200 OK\r\n")
	}
	c.w.Header().Set("Content-Type", mediaType)
	_ = c.w.Header().Write(&head) // a buffer takes all
	head.WriteString("\r\n")
	if _, err := conn.Write(head.Bytes()); err != nil {
		conn.Close()
		return nil, err
	}
	return &hijacked{conn: conn, in: buffered(conn, rw.Reader), muxed: muxed}, nil
}

// buffered reads what r holds, then conn.
func buffered(conn net.Conn, r *bufio.Reader) io.Reader {
	n := r.Buffered()
	if n == 0 {
		return conn
	}
	b, _ := r.Peek(n) // has them
	return io.MultiReader(bytes.NewReader(bytes.Clone(b)), conn)
}

// streams are the ends of the connection for an engine; of a terminal everything is output.
func (h *hijacked) streams() engine.Streams {
	if !h.muxed {
		return engine.Streams{Stdin: h.in, Stdout: h.conn, Stderr: h.conn}
	}
	return engine.Streams{Stdin: h.in, Stdout: frames{h, frameStdout}, Stderr: frames{h, frameStderr}}
}

// frames writes to one stream of a multiplexed connection.
type frames struct {
	h      *hijacked
	stream byte
}

func (f frames) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil // an empty frame tells a client nothing; some take it for output
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	f.h.buf = append(f.h.buf[:0], frameHeader(f.stream, len(b))...)
	f.h.buf = append(f.h.buf, b...)
	if _, err := f.h.conn.Write(f.h.buf); err != nil {
		return 0, err
	}
	return len(b), nil
}

// fail tells a client, on the stream, why it gets nothing more.
func (h *hijacked) fail(text string) {
	out := h.streams().Stdout
	_, _ = io.WriteString(out, text+"\r\n") // or it has gone
}

// close ends the connection so that all that was written arrives: its own direction first, then, when the client has
// seen that and closed its end, all. What the client still sends is thrown away; to close a socket that holds unread
// data would take from the client what it has not read yet.
func (h *hijacked) close() {
	if cw, ok := h.conn.(closeWriter); ok && cw.CloseWrite() == nil {
		_ = h.conn.SetReadDeadline(time.Now().Add(farewell))
		_, _ = io.Copy(io.Discard, h.conn)
	}
	h.conn.Close()
}
