package containerd

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/containerd/shimdata"
	"shoal.dev/shoal/internal/engine/ledger"
)

// Logs implements engine.Containers.
func (e *Engine) Logs(ctx context.Context, name string, o engine.LogOptions, each func(engine.LogLine) error) error {
	if !o.Stdout && !o.Stderr {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "Bad parameters: you must choose at least one stream")
	}
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	if t := c.HostConfig.LogConfig.Type; t != logJSON && t != logLocal {
		return ledger.Errorf(errdefs.ErrNotImplemented, "configured logging driver does not support reading")
	}
	var ended <-chan engine.WaitResult
	if o.Follow && c.Running() {
		// From here on an end is not missed; if it has come already, the wait says so at once.
		wctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if ended, err = e.ledger.Wait(wctx, c.ID, container.WaitConditionNotRunning); err != nil {
			return err
		}
	}
	r := &logReader{path: c.LogPath(), o: o, each: each}
	defer r.close()
	return r.run(ctx, ended)
}

// logReader reads a log that its shim writes, and may rotate, meanwhile.
type logReader struct {
	path string
	o    engine.LogOptions
	each func(engine.LogLine) error

	file *logFile
	br   *bufio.Reader
	part []byte // of an entry whose end is not there yet
	read int64  // bytes of file
	skip int    // entries before the tail
}

var errLogEnd = errors.New("past the last line that was asked for")

func (r *logReader) run(ctx context.Context, ended <-chan engine.WaitResult) error {
	if r.o.Tail >= 0 {
		if err := r.seekTail(r.o.Tail); err != nil {
			return err
		}
	}
	var watch *dirWatch
	if ended != nil {
		var err error
		if watch, err = newDirWatch(filepath.Dir(r.path)); err != nil {
			return err
		}
		defer watch.close()
	}
	for over := ended == nil; ; {
		if err := r.advance(ctx); err != nil {
			return endOf(err)
		}
		if over {
			return nil
		}
		select {
		case <-ended: // the log was complete before the container counted as ended: one more look is enough
			over = true
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		case <-watch.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// seekTail opens the file in which the last n entries begin, if there are more than those. It is open from when its entries
// were counted: that a rotation discards it, or ones before it, takes nothing from the tail.
func (r *logReader) seekTail(n int) error {
	counted := map[shimdata.Identity]bool{}
	for i := 0; i < r.files(); i++ {
		f, err := openLog(r.name(i))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a rotation is about to make it
		}
		if err != nil {
			return err
		}
		if counted[f.id] { // a rotation has moved it here
			f.Close()
			continue
		}
		counted[f.id] = true
		here, err := f.entries()
		if err == nil && here >= n {
			if err = f.rewind(); err == nil {
				r.use(f)
				r.skip = here - n
				return nil
			}
		}
		f.Close()
		if err != nil {
			return err
		}
		n -= here
	}
	return nil
}

func endOf(err error) error {
	if errors.Is(err, errLogEnd) {
		return nil
	}
	return err
}

// name is the log's i-th file: 0 is the one that is written, higher numbers are older.
func (r *logReader) name(i int) string {
	if i == 0 {
		return r.path
	}
	return fmt.Sprintf("%s.%d", r.path, i)
}

// files are how many the log has.
func (r *logReader) files() int {
	for i := 1; ; i++ {
		if _, err := os.Stat(r.name(i)); err == nil {
			continue
		}
		if _, err := os.Stat(r.name(i) + shimdata.Compressed); err != nil {
			return i
		}
	}
}

// rotations is how often the reader looks again when the files were renamed while it looked; a writer that is quicker
// than that loses it lines, as it loses them to the limit on the number of files.
const rotations = 1000

// first opens the oldest file.
func (r *logReader) first() error {
	for range rotations {
		oldest := r.files() - 1
		f, err := openLog(r.name(oldest))
		if errors.Is(err, fs.ErrNotExist) {
			if oldest == 0 {
				return nil // it has not run yet
			}
			continue
		}
		if err != nil {
			return err
		}
		if r.is(f, oldest) && r.files() == oldest+1 {
			r.use(f)
			return nil
		}
		f.Close()
	}
	return nil
}

// next opens the file after the open one; ok is false if that is the newest, or the next is not there yet.
func (r *logReader) next() (ok bool, err error) {
	for range rotations {
		at := r.index()
		switch at {
		case 0:
			return false, nil
		case -1: // the limit on the number of files has taken it
			own := r.file
			if err := r.first(); err != nil {
				return false, err
			}
			return r.file != own, nil
		}
		f, err := openLog(r.name(at - 1))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // in the middle of a rotation, whose end will be seen
		}
		if err != nil {
			return false, err
		}
		// A rotation renames from the oldest on: while ours is still where it was, so was the one after it.
		if r.is(r.file, at) {
			r.use(f)
			return true, nil
		}
		f.Close()
	}
	return false, nil
}

// index is the number of the open file, -1 if it has none any more. A rotation only raises numbers, so a look from the
// lowest on does not miss it.
func (r *logReader) index() int {
	for i := range r.files() + 2 { // two rotations may come meanwhile
		if r.is(r.file, i) {
			return i
		}
	}
	return -1
}

// is says whether f is the log's i-th file.
func (r *logReader) is(f *logFile, i int) bool {
	other, err := openLog(r.name(i))
	if err != nil {
		return false
	}
	defer other.Close()
	return other.id == f.id
}

func (r *logReader) use(f *logFile) {
	r.close()
	r.file, r.br, r.part, r.read = f, bufio.NewReaderSize(f.text, 64<<10), nil, 0
}

func (r *logReader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// advance reads what came since, through the files that a rotation left in between.
func (r *logReader) advance(ctx context.Context) error {
	if r.file == nil {
		if err := r.first(); err != nil || r.file == nil {
			return err
		}
	}
	own, err := r.file.Stat()
	if err != nil {
		return err
	}
	if !r.file.whole && own.Size() < r.read { // emptied in place
		if _, err := r.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		r.br.Reset(r.file)
		r.part, r.read = nil, 0
	}
	for {
		// What is written to a file ends before it is renamed: whoever has seen it renamed reads it to its end.
		renamed := r.index() != 0
		if err := r.drain(ctx); err != nil {
			return err
		}
		if !renamed {
			return nil
		}
		ok, err := r.next()
		if err != nil || !ok {
			return err
		}
	}
}

// drain reads the open file to its present end.
func (r *logReader) drain(ctx context.Context) error {
	if r.file == nil {
		return nil
	}
	for {
		b, err := r.br.ReadSlice('\n')
		r.read += int64(len(b))
		r.part = append(r.part, b...)
		switch {
		case err == nil:
			if err := r.entry(r.part); err != nil {
				return err
			}
			r.part = r.part[:0]
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF), r.file.whole: // a compressed file that is damaged ends where it is
			return nil
		default:
			return err
		}
	}
}

// entry passes one line of the file on, if it was asked for. What is not an entry is skipped: a full disk or a power
// cut may leave half of one.
func (r *logReader) entry(b []byte) error {
	if r.skip > 0 {
		r.skip--
		return nil
	}
	var e shimdata.Entry
	if json.Unmarshal(b, &e) != nil {
		return nil
	}
	if !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
		return errLogEnd
	}
	if !r.o.Since.IsZero() && e.Time.Before(r.o.Since) {
		return nil
	}
	if e.Stream == "stdout" && !r.o.Stdout || e.Stream == "stderr" && !r.o.Stderr {
		return nil
	}
	line := engine.LogLine{Stream: e.Stream, Time: e.Time, Line: []byte(e.Log)}
	if len(e.Attrs) > 0 && json.Unmarshal(e.Attrs, &line.Attrs) != nil {
		line.Attrs = nil
	}
	return r.each(line)
}

// logFile is an open file of a log, compressed or not.
type logFile struct {
	*os.File
	id    shimdata.Identity
	text  io.Reader
	whole bool // compressed: nothing is added any more
}

// openLog opens a file of a log in the form in which it is there.
func openLog(path string) (*logFile, error) {
	f, err := os.Open(path)
	if err == nil {
		id, err := shimdata.IdentityOf(f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return &logFile{File: f, id: id, text: f}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if f, err = os.Open(path + shimdata.Compressed); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil { // the machine went down before it was on the disk: nothing is in it
		return &logFile{File: f, id: shimdata.Identity(f.Name()), text: strings.NewReader(""), whole: true}, nil
	}
	return &logFile{File: f, id: shimdata.Identity(z.Comment), text: z, whole: true}, nil
}

// entries counts those up to the file's present end.
func (f *logFile) entries() (n int, err error) {
	buf := make([]byte, 64<<10)
	for {
		k, err := f.text.Read(buf)
		n += bytes.Count(buf[:k], []byte{'\n'})
		if errors.Is(err, io.EOF) || err != nil && f.whole {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// rewind goes back to the file's beginning.
func (f *logFile) rewind() error {
	if _, err := f.Seek(0, io.SeekStart); err != nil || !f.whole {
		return err
	}
	z, err := gzip.NewReader(f)
	if err != nil { // as in openLog
		f.text = strings.NewReader("")
		return nil
	}
	f.text = z
	return nil
}

// dirWatch tells of changes in a folder. Several may come as one.
type dirWatch struct {
	f       *os.File
	changed chan struct{} // of size 1
}

func newDirWatch(dir string) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	w := &dirWatch{f: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1)}
	go func() { // ends when the file is closed
		buf := make([]byte, 4096)
		for {
			_ = w.f.SetReadDeadline(time.Now().Add(time.Second)) // a look now and then costs little and misses nothing
			if _, err := w.f.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}()
	return w, nil
}

func (w *dirWatch) close() { w.f.Close() }
