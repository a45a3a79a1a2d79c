package containerd

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/containerd/shimdata"
)

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
