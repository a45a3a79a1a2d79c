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
	"slices"
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
	files, err := r.kept()
	if err != nil {
		return err
	}
	for _, file := range files {
		f, err := r.open(file)
		if err != nil {
			return err
		}
		if f == nil {
			return nil
		}
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

// rotations is how often the reader looks again when the files were renamed while it looked; a writer that is quicker
// than that loses it lines, as it loses them to the limit on the number of files.
const rotations = 1000

// numbered is a file of a log and the number it had when it was seen.
type numbered struct {
	id shimdata.Identity
	at int
}

// kept are the files that the log had at one moment, the newest first.
//
// A rotation renames from the oldest file on, each to the next higher number, and makes a new one last: a look from the
// lowest number on meets all that were there when it began, some twice. Only if new ones came meanwhile their order is
// not sure.
func (r *logReader) kept() ([]numbered, error) {
	for range rotations {
		var (
			files  []numbered
			before shimdata.Identity
		)
		for i, absent := 0, 0; absent < gaps; i++ {
			id, err := r.identity(i)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				before = id
			}
			if id == "" {
				absent++
				continue
			}
			absent = 0
			if find(files, id) < 0 {
				files = append(files, numbered{id, i})
			}
		}
		after, err := r.identity(0)
		if err != nil || after == before {
			return files, err
		}
	}
	return nil, fmt.Errorf("%s: its files are renamed faster than they can be listed", r.path)
}

func find(files []numbered, id shimdata.Identity) int {
	return slices.IndexFunc(files, func(f numbered) bool { return f.id == id })
}

// gaps is how many numbers in a row have no file, so that there is none after them: a rotation leaves one number free at
// a time, and one for good if its writer is killed in the middle.
const gaps = 4

// identity is the i-th file's, "" if there is none.
func (r *logReader) identity(i int) (shimdata.Identity, error) {
	f, err := openLog(r.name(i))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return f.id, f.Close()
}

// open opens a file of the log; it is nil if the limit on the number of files has taken it.
func (r *logReader) open(n numbered) (*logFile, error) {
	for range rotations {
		f, err := openLog(r.name(n.at))
		if err == nil && f.id == n.id {
			return f, nil
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		files, err := r.kept()
		if err != nil {
			return nil, err
		}
		i := find(files, n.id)
		if i < 0 {
			return nil, nil
		}
		n = files[i]
	}
	return nil, fmt.Errorf("%s: its files are renamed faster than they can be opened", r.path)
}

// next opens the file after the open one, the oldest if none is open or the limit on the number of files has taken it;
// ok is false if there is none.
func (r *logReader) next() (ok bool, err error) {
	for range rotations {
		files, err := r.kept()
		if err != nil {
			return false, err
		}
		own := len(files)
		if r.file != nil {
			if i := find(files, r.file.id); i >= 0 {
				own = i
			}
		}
		if own == 0 {
			return false, nil
		}
		f, err := r.open(files[own-1])
		if err != nil {
			return false, err
		}
		if f != nil {
			r.use(f)
			return true, nil
		}
	}
	return false, nil
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
		if ok, err := r.next(); err != nil || !ok {
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
		newest, err := r.identity(0)
		if err != nil {
			return err
		}
		if err := r.drain(ctx); err != nil {
			return err
		}
		if newest == r.file.id {
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
		id, err := shimdata.IdentityOf(f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return &logFile{File: f, id: id, text: strings.NewReader(""), whole: true}, nil
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
