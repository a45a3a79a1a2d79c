package containerd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
	if t := c.HostConfig.LogConfig.Type; t != "json-file" {
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

	file *os.File
	br   *bufio.Reader
	part []byte // of an entry whose end is not there yet
	read int64  // bytes of file
	skip int    // entries before the tail
}

var errLogEnd = errors.New("past the last line that was asked for")

func (r *logReader) run(ctx context.Context, ended <-chan engine.WaitResult) error {
	files := r.files()
	if r.o.Tail >= 0 {
		total := 0
		for _, f := range files {
			n, err := countEntries(f)
			if err != nil {
				return err
			}
			total += n
		}
		r.skip = max(0, total-r.o.Tail)
	}
	var watch *dirWatch
	if ended != nil {
		var err error
		if watch, err = newDirWatch(filepath.Dir(r.path)); err != nil {
			return err
		}
		defer watch.close()
	}
	for _, f := range files {
		if err := r.open(f); err != nil {
			return err
		}
		if err := r.drain(ctx); err != nil {
			return endOf(err)
		}
	}
	for over := false; ended != nil; {
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
	return nil
}

func endOf(err error) error {
	if errors.Is(err, errLogEnd) {
		return nil
	}
	return err
}

// files are the log's, oldest first.
func (r *logReader) files() []string {
	list := []string{r.path}
	for i := 1; ; i++ {
		f := fmt.Sprintf("%s.%d", r.path, i)
		if _, err := os.Stat(f); err != nil {
			break
		}
		list = append([]string{f}, list...)
	}
	return list
}

func (r *logReader) open(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has not run yet, or was rotated away
	}
	if err != nil {
		return err
	}
	r.close()
	r.file, r.br, r.part, r.read = f, bufio.NewReaderSize(f, 64<<10), nil, 0
	return nil
}

func (r *logReader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// advance reads what came since, through the files that a rotation left in between.
func (r *logReader) advance(ctx context.Context) error {
	if r.file == nil {
		if err := r.open(r.path); err != nil || r.file == nil {
			return err
		}
	}
	if err := r.drain(ctx); err != nil {
		return err
	}
	own, err := r.file.Stat()
	if err != nil {
		return err
	}
	if own.Size() < r.read { // emptied in place
		if _, err := r.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		r.br.Reset(r.file)
		r.part, r.read = nil, 0
		return r.drain(ctx)
	}
	files := r.files()
	at := -1
	for i, f := range files {
		if st, err := os.Stat(f); err == nil && os.SameFile(st, own) {
			at = i
		}
	}
	for _, f := range files[at+1:] { // all of them if ours was rotated away
		if err := r.open(f); err != nil {
			return err
		}
		if err := r.drain(ctx); err != nil {
			return err
		}
	}
	return nil
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
		case errors.Is(err, io.EOF):
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
	return r.each(engine.LogLine{Stream: e.Stream, Time: e.Time, Line: []byte(e.Log)})
}

func countEntries(path string) (int, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := 0
	buf := make([]byte, 64<<10)
	for {
		k, err := f.Read(buf)
		for _, c := range buf[:k] {
			if c == '\n' {
				n++
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
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
