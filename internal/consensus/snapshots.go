package consensus

import (
	"bufio"
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// A sealed snapshot is a magic, a salt and chunks of chunkSize bytes, each sealed for itself with its number as nonce; the last one, which
// may be shorter or empty, is marked as such, so that a cut is found out. The index and term that the snapshot is for are associated data.
const (
	snapshotMagic   = "SHOALSN1"
	purposeSnapshot = "shoal snapshot 1"
	chunkSize       = 64 << 10
	retained        = 2 // in all, unless the swarm wants more; the older one is for when the newest is damaged

	chunkMore = 0
	chunkLast = 1
)

// snapshots is raft's file snapshot store, which writes to a temporary folder, syncs, renames and has a checksum of each, with the content sealed.
// The members and their addresses (meta.json) are not sealed.
type snapshots struct {
	inner  atomic.Pointer[raft.FileSnapshotStore]
	parent string // of dir
	dir    string
	key    []byte
	log    hclog.Logger

	keeping sync.Mutex
	keep    int // how many are kept; guarded by keeping
}

var _ raft.SnapshotStore = (*snapshots)(nil)

func openSnapshots(dir string, key []byte, log hclog.Logger) (*snapshots, error) {
	inner, err := raft.NewFileSnapshotStoreWithLogger(dir, retained, log)
	if err != nil {
		return nil, fmt.Errorf("the folder of the snapshots: %w", err)
	}
	s := &snapshots{parent: dir, dir: filepath.Join(dir, "snapshots"), key: key, log: log, keep: retained}
	s.inner.Store(inner)
	// What a crash left half-written is not listed and not removed by raft.
	left, err := filepath.Glob(filepath.Join(s.dir, "*.tmp"))
	if err != nil {
		return nil, err
	}
	for _, d := range left {
		if err := os.RemoveAll(d); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Create starts a snapshot.
func (s *snapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, cIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.inner.Load().Create(v, index, term, c, cIndex, t)
	if err != nil {
		return nil, err
	}
	w, err := newSealWriter(sink, s.key, snapshotBinding(index, term))
	if err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return &sealedSink{sink, w}, nil
}

// List returns the snapshots, the newest first, with the sizes of their content.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	metas, err := s.inner.Load().List()
	for _, m := range metas {
		m.Size = plainSize(m.Size)
	}
	return metas, err
}

// Open reads a snapshot. What is damaged shows while reading.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, rc, err := s.inner.Load().Open(id)
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s in %s is damaged: %w", id, s.dir, err)
	}
	r, err := newSealReader(rc, s.key, snapshotBinding(m.Index, m.Term))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("snapshot %s in %s is damaged: %w", id, s.dir, err), rc.Close())
	}
	m.Size = plainSize(m.Size)
	return m, sealedSource{&nameErrors{r, "snapshot " + id + " in " + s.dir + " is damaged"}, rc}, nil
}

// verify reads all of a snapshot.
func (s *snapshots) verify(id string) error {
	_, rc, err := s.Open(id)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, rc)
	return errors.Join(err, rc.Close())
}

func snapshotBinding(index, term uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, index), term)
}

// plainSize is the size of the content of a sealed file.
func plainSize(sealed int64) int64 {
	n := sealed - int64(len(snapshotMagic)+saltSize)
	chunks := (n + chunkSize + tagSize - 1) / (chunkSize + tagSize)
	return max(0, n-chunks*tagSize)
}

type sealedSink struct {
	raft.SnapshotSink
	w *sealWriter
}

func (s *sealedSink) Write(p []byte) (int, error) { return s.w.Write(p) }

func (s *sealedSink) Close() error {
	if err := s.w.Close(); err != nil {
		return errors.Join(err, s.SnapshotSink.Cancel())
	}
	return s.SnapshotSink.Close()
}

type sealedSource struct {
	io.Reader
	io.Closer
}

// nameErrors says whose error it is.
type nameErrors struct {
	r    io.Reader
	name string
}

func (n *nameErrors) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%s: %w", n.name, err)
	}
	return k, err
}

// sealWriter seals a stream with one chunk of memory.
type sealWriter struct {
	w       io.Writer
	aead    cipher.AEAD
	binding []byte
	n       uint64
	buf     []byte
	out     []byte
}

func newSealWriter(w io.Writer, key, binding []byte) (*sealWriter, error) {
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	aead, err := deriveAEAD(key, salt, purposeSnapshot)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(append([]byte(snapshotMagic), salt...)); err != nil {
		return nil, err
	}
	return &sealWriter{w: w, aead: aead, binding: binding, buf: make([]byte, 0, chunkSize)}, nil
}

func (s *sealWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if len(s.buf) == chunkSize { // only now is it sure that it is not the last
			if err := s.flush(chunkMore); err != nil {
				return n, err
			}
		}
		k := min(len(p), chunkSize-len(s.buf))
		s.buf = append(s.buf, p[:k]...)
		n, p = n+k, p[k:]
	}
	return n, nil
}

func (s *sealWriter) flush(kind byte) error {
	s.out = s.aead.Seal(s.out[:0], nonce(kind, s.n), s.buf, s.binding)
	s.n++
	s.buf = s.buf[:0]
	_, err := s.w.Write(s.out)
	return err
}

// Close writes the last chunk.
func (s *sealWriter) Close() error { return s.flush(chunkLast) }

// sealReader reads what sealWriter wrote. It returns nothing that was not checked, and io.EOF only at the true end.
type sealReader struct {
	r       *bufio.Reader
	aead    cipher.AEAD
	binding []byte
	n       uint64
	in      []byte
	plain   []byte
	done    bool
	err     error
}

func newSealReader(r io.Reader, key, binding []byte) (*sealReader, error) {
	br := bufio.NewReaderSize(r, chunkSize)
	head := make([]byte, len(snapshotMagic)+saltSize)
	if _, err := io.ReadFull(br, head); err != nil {
		return nil, errors.New("it is cut off in its header")
	}
	if !bytes.HasPrefix(head, []byte(snapshotMagic)) {
		return nil, errors.New("it is not a snapshot of this version")
	}
	aead, err := deriveAEAD(key, head[len(snapshotMagic):], purposeSnapshot)
	if err != nil {
		return nil, err
	}
	return &sealReader{r: br, aead: aead, binding: binding, in: make([]byte, chunkSize+tagSize)}, nil
}

func (s *sealReader) Read(p []byte) (int, error) {
	for len(s.plain) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if s.done {
			return 0, io.EOF
		}
		s.err = s.next()
	}
	n := copy(p, s.plain)
	s.plain = s.plain[n:]
	return n, nil
}

func (s *sealReader) next() error {
	k, err := io.ReadFull(s.r, s.in)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	kind := byte(chunkMore)
	if _, err := s.r.Peek(1); err != nil {
		if !errors.Is(err, io.EOF) {
			return err
		}
		kind, s.done = chunkLast, true
	}
	plain, err := s.aead.Open(s.in[:0:0], nonce(kind, s.n), s.in[:k], s.binding)
	if err != nil {
		if kind == chunkLast {
			return fmt.Errorf("it is cut off, or its last part (%d) was changed, or the key is another one", s.n)
		}
		return fmt.Errorf("part %d: %w", s.n, errSeal)
	}
	s.n++
	s.plain = plain
	return nil
}
