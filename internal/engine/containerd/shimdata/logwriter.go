package shimdata

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"
)

// maxChunk is how much of a line goes into one entry; Docker cuts at the same length.
const maxChunk = 16 << 10

// LogWriter writes a container's streams into one json-file log. It is safe for concurrent use by several streams.
type LogWriter struct {
	target Target

	mu   sync.Mutex
	file *os.File
	size int64

	compressing sync.WaitGroup // at most one: the newest of the files that are not written any more
	ahead       *Queue         // what waits for the disk; nil: the container does
	behind      chan struct{}  // closed when ahead has come to its end
}

// OpenLog opens t's log for appending and makes its folder if need be.
func OpenLog(t Target) (*LogWriter, error) {
	if err := os.MkdirAll(filepath.Dir(t.Log), 0o700); err != nil {
		return nil, err
	}
	w := &LogWriter{target: t}
	if err := w.open(); err != nil {
		return nil, err
	}
	if t.Buffer > 0 {
		w.ahead, w.behind = NewQueue(), make(chan struct{})
		go func() {
			defer close(w.behind)
			for b, more := w.ahead.Pop(); more; b, more = w.ahead.Pop() {
				_ = w.write(b) // a line that the disk does not take is dropped, as one that came too early
			}
		}()
	}
	return w, nil
}

// Close writes what waits, and closes the file.
func (w *LogWriter) Close() error {
	if w.ahead != nil {
		w.ahead.Finish()
		<-w.behind
	}
	w.compressing.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// Copy writes what r gives under the name of stream until r ends. A disk that is full does not stop it: the container
// would block on its own output. What could not be written is lost and the first error is returned at the end.
func (w *LogWriter) Copy(stream string, r io.Reader) error {
	var (
		br    = bufio.NewReaderSize(r, maxChunk)
		out   bytes.Buffer
		enc   = json.NewEncoder(&out)
		line  = make([]byte, 0, maxChunk)
		batch = 4 * maxChunk
		first error
	)
	if s := w.target.MaxSize; s > 0 && s < int64(batch) {
		batch = int(s)
	}
	enc.SetEscapeHTML(false)
	flush := func() {
		if out.Len() == 0 {
			return
		}
		if w.ahead != nil {
			w.ahead.Offer(bytes.Clone(out.Bytes()), w.target.Buffer)
		} else if err := w.write(out.Bytes()); err != nil && first == nil {
			first = err
		}
		out.Reset()
	}
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part...)
		var rest []byte
		if errors.Is(err, bufio.ErrBufferFull) {
			line, rest = cutRune(line)
		}
		if len(line) > 0 {
			_ = enc.Encode(Entry{Log: string(line), Stream: stream, Attrs: w.target.Attrs, Time: time.Now().UTC()}) // a buffer takes all
		}
		line = append(line[:0], rest...)
		// Lines that came together are written together.
		if br.Buffered() == 0 || out.Len() >= batch || err != nil {
			flush()
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(first, err)
		}
	}
}

// cutRune splits b before a UTF-8 sequence that is not complete at its end, which the next chunk will complete.
func cutRune(b []byte) (whole, rest []byte) {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return b[:len(b)-i], bytes.Clone(b[len(b)-i:])
			}
			break
		}
	}
	return b, nil
}

func (w *LogWriter) open() error {
	f, err := os.OpenFile(w.target.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.file, w.size = f, st.Size()
	return nil
}

// write appends b, which is whole entries, and rotates before it if the file is full. A file may exceed the limit by
// one batch.
func (w *LogWriter) write(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return os.ErrClosed
	}
	if w.target.MaxSize > 0 && w.size > 0 && w.size+int64(len(b)) > w.target.MaxSize {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	n, err := w.file.Write(b)
	w.size += int64(n)
	return err
}

// rotate renames log to log.1, log.1 to log.2 and so on, as Docker does, and opens a new log.
func (w *LogWriter) rotate() error {
	name := func(i int) string {
		if i == 0 {
			return w.target.Log
		}
		return fmt.Sprintf("%s.%d", w.target.Log, i)
	}
	last := max(1, w.target.MaxFile) - 1
	if last == 0 {
		err := w.file.Truncate(0)
		w.size = 0
		return err
	}
	// A file is on its way from its plain to its compressed form, and is not to be renamed in between.
	w.compressing.Wait()
	for i := last; i > 0; i-- {
		if err := move(name(i-1), name(i)); err != nil {
			return err
		}
	}
	old := w.file
	if err := w.open(); err != nil {
		w.file = old // go on in the old file rather than lose lines
		return err
	}
	if w.target.Compress {
		w.compressing.Go(func() { _ = compress(name(1)) }) // a file that cannot be compressed stays as it is
	}
	return old.Close()
}

// move renames a log file, which may be compressed or not be there, over another one.
func move(from, to string) error {
	for _, form := range []struct{ own, other string }{{"", Compressed}, {Compressed, ""}} {
		err := os.Rename(from+form.own, to+form.own)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.Remove(to + form.other)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	return nil
}
