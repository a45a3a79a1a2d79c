package httpapi

import (
	"bufio"
	"encoding/binary"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"

	"shoal.dev/shoal/internal/engine"
)

// The streams of Docker's multiplexed format (github.com/moby/moby/api/pkg/stdcopy): a frame has one of these, three
// zero bytes and the length as four bytes, big end first.
const (
	frameStdout = 1
	frameStderr = 2
	frameSystem = 3 // an error of the daemon, after which nothing follows
)

// timestampFormat is RFC 3339 with all nine digits, so that the columns of a log line up.
const timestampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// logOptions reads what the routes of logs have in common.
func (c *call) logOptions() (engine.LogOptions, error) {
	o := engine.LogOptions{Stdout: c.flag("stdout"), Stderr: c.flag("stderr"), Follow: c.flag("follow"), Tail: -1}
	if !o.Stdout && !o.Stderr {
		return o, invalid("Bad parameters: you must choose at least one stream")
	}
	var err error
	if o.Since, err = parseTime("since", c.query.Get("since")); err != nil {
		return o, err
	}
	if n, err := strconv.Atoi(c.query.Get("tail")); err == nil { // "all", and what is no number, is everything
		o.Tail = n
	}
	return o, nil
}

// logWriter begins the answer and returns what writes it.
func (c *call) logWriter(tty bool) *logWriter {
	out := &logWriter{
		w:          bufio.NewWriterSize(c.w, 32<<10),
		flush:      c.w.Flush,
		muxed:      !tty,
		timestamps: c.flag("timestamps"),
		details:    c.flag("details"),
	}
	mediaType := types.MediaTypeRawStream
	if out.muxed && c.since(42) {
		mediaType = types.MediaTypeMultiplexedStream
	}
	c.w.Header().Set("Content-Type", mediaType)
	c.w.Flush()
	return out
}

func (a *api) containerLogs(c *call) error {
	o, err := c.logOptions()
	if err != nil {
		return err
	}
	if o.Until, err = parseTime("until", c.query.Get("until")); err != nil {
		return err
	}
	info, err := a.Containers.Inspect(c.Context(), c.value)
	if err != nil {
		return err
	}
	if info.HostConfig != nil && info.HostConfig.LogConfig.Type == "none" {
		return errdefs.ErrNotImplemented.WithMessage("configured logging driver does not support reading")
	}
	out := c.logWriter(info.Config != nil && info.Config.Tty)
	err = a.Containers.Logs(c.Context(), c.value, o, func(l engine.LogLine) error { return out.line(l, "") })
	if err != nil && c.Context().Err() == nil {
		a.Log.Error("reading logs failed", "container", c.value, "error", err)
		out.fail(err)
	}
	out.close()
	return nil
}

// flushAfter is how long a line may wait for others before it is sent: a person does not see it, and a container
// that writes much does not cost a packet a line.
const flushAfter = 20 * time.Millisecond

// logWriter writes log lines as Docker does and sends them soon.
type logWriter struct {
	muxed, timestamps, details bool

	mu     sync.Mutex
	w      *bufio.Writer
	flush  func()
	armed  bool
	closed bool
}

// line writes a line; details are its attributes, which stand before it if they were asked for.
func (l *logWriter) line(ll engine.LogLine, details string) error {
	b := make([]byte, 0, len(ll.Line)+len(timestampFormat)+len(details)+2)
	if l.timestamps {
		b = append(ll.Time.UTC().AppendFormat(b, timestampFormat), ' ')
	}
	if l.details {
		if b = append(b, details...); details != "" && len(ll.Attrs) > 0 {
			b = append(b, ',')
		}
		b = append(appendAttrs(b, ll.Attrs), ' ')
	}
	b = append(b, ll.Line...)
	stream := byte(frameStdout)
	if ll.Stream == "stderr" {
		stream = frameStderr
	}
	return l.frame(stream, b)
}

// appendAttrs adds a line's attributes as Docker writes them: sorted, escaped, with commas between.
func appendAttrs(b []byte, attrs map[string]string) []byte {
	for i, k := range slices.Sorted(maps.Keys(attrs)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, url.QueryEscape(k)+"="+url.QueryEscape(attrs[k])...)
	}
	return b
}

func (l *logWriter) fail(err error) {
	// A raw stream has no place for an error but its text.
	_ = l.frame(frameSystem, []byte("Error grabbing logs: "+err.Error()+"\n"))
}

// frameHeader begins a frame of n bytes.
func frameHeader(stream byte, n int) []byte {
	return binary.BigEndian.AppendUint32([]byte{stream, 0, 0, 0}, uint32(n))
}

func (l *logWriter) frame(stream byte, b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.muxed {
		if _, err := l.w.Write(frameHeader(stream, len(b))); err != nil {
			return err
		}
	}
	if _, err := l.w.Write(b); err != nil {
		return err
	}
	if !l.armed {
		l.armed = true
		time.AfterFunc(flushAfter, l.send)
	}
	return nil
}

// send flushes, unless the answer has ended meanwhile.
func (l *logWriter) send() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if !l.closed && l.w.Flush() == nil {
		l.flush()
	}
}

func (l *logWriter) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.w.Flush() == nil { // an error says that the client is gone
		l.flush()
	}
}
