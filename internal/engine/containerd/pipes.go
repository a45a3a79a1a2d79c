package containerd

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/escape"
)

// drainQuiet is how long the output of a command that has ended may be silent before it counts as over although
// somebody, such as a process that it left behind, still holds it open. Docker waits as long.
const drainQuiet = 2 * time.Second

// errStdinOver says that a client sends no more, which was passed on.
var errStdinOver = errors.New("the client sends no more")

// pipes are the FIFOs between a command's shim and this process. Output is always read, also when nobody wants it: the
// command would block otherwise.
type pipes struct {
	dir     string
	tty     bool
	paths   map[string]string
	stdin   *os.File   // nil: none
	writers []*os.File // keep the readers from seeing an end until the shim has opened its ends
	readers []*os.File
	sinks   []*sink
	copies  sync.WaitGroup
	ended   atomic.Bool // the command has; readers give up when it is silent
	once    sync.Once
}

// sink writes to a client until that fails or the client has left.
type sink struct {
	w    io.Writer
	gone atomic.Bool
}

func (s *sink) Write(b []byte) (int, error) {
	if s.w != nil && !s.gone.Load() {
		if _, err := s.w.Write(b); err != nil {
			s.gone.Store(true)
		}
	}
	return len(b), nil
}

// openPipes makes FIFOs in a new folder for the streams that are wanted and starts to copy output. A terminal has one
// output.
func openPipes(dir string, tty bool, s engine.Streams) (_ *pipes, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &pipes{dir: dir, tty: tty, paths: map[string]string{}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	make := func(name string) (string, error) {
		path := filepath.Join(dir, name)
		p.paths[name] = path
		return path, syscall.Mkfifo(path, 0o600)
	}
	if s.Stdin != nil {
		path, err := make("stdin")
		if err != nil {
			return nil, err
		}
		// For reading, too: so it opens before the shim has its end, and a write never fails for want of a reader.
		if p.stdin, err = os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
			return nil, err
		}
	}
	for _, out := range []struct {
		name string
		to   io.Writer
	}{{"stdout", s.Stdout}, {"stderr", s.Stderr}} {
		if tty && out.name == "stderr" {
			continue
		}
		path, err := make(out.name)
		if err != nil {
			return nil, err
		}
		r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		p.readers = append(p.readers, r)
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		p.writers = append(p.writers, w)
		to := &sink{w: out.to}
		p.sinks = append(p.sinks, to)
		p.copies.Go(func() { p.copy(to, r) })
	}
	return p, nil
}

func (p *pipes) copy(to *sink, r *os.File) {
	buf := make([]byte, 32<<10)
	for {
		if p.ended.Load() {
			_ = r.SetReadDeadline(time.Now().Add(drainQuiet))
		}
		n, err := r.Read(buf)
		_, _ = to.Write(buf[:n]) // never fails
		if err != nil {
			return
		}
	}
}

// started is called when the shim has opened its ends.
func (p *pipes) started() {
	for _, w := range p.writers {
		w.Close()
	}
	p.writers = nil
}

// feed passes a client's input on. It returns nil after the detach keys of a terminal, errStdinOver if the input is
// over and, as there is no terminal, was closed for the command, and another error if the client has gone.
func (p *pipes) feed(r io.Reader, keys []byte, closeStdin func()) error {
	if p.tty {
		_, err := io.Copy(p.stdin, escape.NewReader(r, keys))
		if errors.Is(err, escape.ErrDetached) {
			return nil
		}
		if err == nil {
			err = io.EOF
		}
		return err
	}
	// Not by splice, which would need both ends to be files: the client's bytes may be buffered.
	_, _ = io.Copy(struct{ io.Writer }{p.stdin}, r) // the command reads no more: its end will be seen
	p.stdin.Close()
	closeStdin()
	return errStdinOver
}

// mute ends the client's part; the command goes on.
func (p *pipes) mute() {
	for _, s := range p.sinks {
		s.gone.Store(true)
	}
}

// drain waits for the output of a command that has ended.
func (p *pipes) drain() {
	p.ended.Store(true)
	for _, r := range p.readers {
		_ = r.SetReadDeadline(time.Now().Add(drainQuiet))
	}
	p.copies.Wait()
}

// close lets go of everything.
func (p *pipes) close() {
	p.once.Do(func() {
		p.started()
		for _, r := range p.readers {
			r.Close()
		}
		if p.stdin != nil {
			p.stdin.Close()
		}
		os.RemoveAll(p.dir)
	})
}
