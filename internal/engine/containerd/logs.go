package containerd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

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
