package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// A backup is backupMagic, what [Snapshot.Persist] writes, and the SHA-256 digest of both. It is not sealed: it has the
// swarm's keys and secrets, and whoever needs it has lost the manager that had a key for it.
const backupMagic = "SHOALBK1"

// ErrNoBackup is the class of errors of [ReadBackup] for what is not a whole backup.
var ErrNoBackup = errors.New("not a backup that can be used")

// Backup writes the snapshot to w, for [ReadBackup]. While it does, it reads what it writes into another store and
// compares: only if every record came back does the digest follow that makes the backup a whole one.
func (s *Snapshot) Backup(w io.Writer) error {
	sum := sha256.New()
	check, tee := io.Pipe()
	read := make(chan error, 1)
	scratch := New()
	go func() {
		err := scratch.Restore(check)
		check.CloseWithError(err) // nil is io.ErrClosedPipe for a writer that has more, and it has none
		read <- err
	}()
	_, err := io.WriteString(io.MultiWriter(w, sum), backupMagic)
	if err == nil {
		err = s.Persist(io.MultiWriter(w, sum, tee))
	}
	tee.CloseWithError(io.ErrUnexpectedEOF)
	if rerr := <-read; err == nil && rerr != nil {
		err = fmt.Errorf("reading the backup back: %w", rerr)
	}
	if err != nil {
		return err
	}
	again := sha256.New()
	if _, err := io.WriteString(again, backupMagic); err != nil {
		return err
	}
	if err := scratch.Snapshot().Persist(again); err != nil {
		return err
	}
	if !bytes.Equal(again.Sum(nil), sum.Sum(nil)) {
		return errors.New("the backup was read back with other records than it was written with")
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// ReadBackup reads a backup into a new store, which has no proposer. Whatever is not a whole one is ErrNoBackup; other
// errors are r's.
func ReadBackup(r io.Reader) (*Store, error) {
	t := &trailed{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	magic := make([]byte, len(backupMagic))
	if _, err := io.ReadFull(t, magic); err != nil || string(magic) != backupMagic {
		if err != nil && t.err != nil && !errors.Is(t.err, ErrNoBackup) {
			return nil, t.err
		}
		return nil, fmt.Errorf("%w: it does not begin as a backup of Shoal does", ErrNoBackup)
	}
	s := New()
	err := s.Restore(t)
	if err == nil {
		_, err = io.Copy(io.Discard, t)
	}
	switch {
	case t.err != nil:
		return nil, t.err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoBackup, err)
	case !bytes.Equal(t.trailer, t.sum.Sum(nil)):
		return nil, fmt.Errorf("%w: its digest is not that of its content: it was changed", ErrNoBackup)
	case s.Index() == 0:
		return nil, fmt.Errorf("%w: it is of no version of a swarm", ErrNoBackup)
	}
	return s, nil
}

// trailed reads all but the digest at the end, and sums it up.
type trailed struct {
	r       *bufio.Reader
	sum     hash.Hash
	trailer []byte
	err     error // the reader's, or that it is cut off
}

func (t *trailed) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	if t.trailer != nil {
		return 0, io.EOF
	}
	want := min(len(p), t.r.Size()-sha256.Size)
	ahead, err := t.r.Peek(want + sha256.Size)
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
		return 0, err
	}
	if len(ahead) < sha256.Size {
		t.err = fmt.Errorf("%w: it is cut off", ErrNoBackup)
		return 0, t.err
	}
	n := copy(p, ahead[:len(ahead)-sha256.Size])
	if n == 0 && len(p) > 0 {
		t.trailer = bytes.Clone(ahead)
		return 0, io.EOF
	}
	t.sum.Write(p[:n])
	_, err = t.r.Discard(n)
	return n, err
}
