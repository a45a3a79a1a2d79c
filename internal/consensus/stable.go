package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// fullAgain is how often a value is tried to be written again while the disk is full.
const fullAgain = time.Second

// Set stores one of raft's own values (the term, the vote). They are sealed, too, so that a changed one is found out.
//
// On a full disk it waits for room. Raft ends the program if it cannot keep its term, and with the program the node's agent;
// a manager that waits here is one that does not answer, which the others do without.
func (s *logStore) Set(key, val []byte) error {
	err := s.put(key, val)
	for waits := 0; noRoom(err); waits++ {
		if waits%60 == 0 {
			s.log.Error("the disk is full: this manager takes no part in the swarm's decisions until there is room", "file", s.path, "error", err)
		}
		select {
		case <-time.After(fullAgain):
		case <-s.closing:
			// An error would end the program where it is being closed anyway. Raft counts its goroutines by defer.
			runtime.Goexit()
		}
		if err = s.put(key, val); err == nil {
			s.log.Info("the disk has room again: this manager takes part in the swarm's decisions", "file", s.path)
		}
	}
	if err != nil {
		return fmt.Errorf("writing %q to %s: %w", key, s.path, err)
	}
	return nil
}

func (s *logStore) put(key, val []byte) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketStable).Put(key, s.sealBytes(val, stableBinding(key)))
	})
}

func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// Get reads one of raft's own values; nil if there is none.
func (s *logStore) Get(key []byte) (val []byte, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketStable).Get(key)
		if v == nil {
			return nil
		}
		val, err = s.openStable(key, v)
		return err
	})
	return val, err
}

func (s *logStore) openStable(key, v []byte) ([]byte, error) {
	p, err := s.openBytes(v, stableBinding(key))
	if err != nil {
		return nil, &damage{fmt.Sprintf("%q in the swarm's log %s", key, s.path), err}
	}
	return p, nil
}

// stableBinding is longer than an index, so that neither can be taken for the other.
func stableBinding(key []byte) []byte { return append([]byte("stable value "), key...) }

// SetUint64 stores a number.
func (s *logStore) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 reads a number; 0 if there is none.
func (s *logStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	switch {
	case err != nil:
		return 0, err
	case v == nil:
		return 0, nil
	case len(v) != 8:
		return 0, fmt.Errorf("%q in the swarm's log %s is damaged: it has %d bytes", key, s.path, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// verify reads everything in an existing file before bbolt does.
func (s *logStore) verify() (err error) {
	f, err := os.Open(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()                                        // also gives back the lock
	if fi, err := f.Stat(); err != nil || fi.Size() == 0 { // empty: the crash came before the first write
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return s.openError(berrors.ErrTimeout)
	}
	p, err := openPages(f)
	if err == nil {
		err = s.verifyPages(p)
	}
	var named *damage
	if err != nil && !errors.As(err, &named) {
		err = &damage{fmt.Sprintf("the swarm's log %s", s.path), err}
	}
	return err
}

// damage says what is damaged.
type damage struct {
	what string
	err  error
}

func (d *damage) Error() string { return d.what + " is damaged: " + d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

func (s *logStore) verifyPages(p *pages) error {
	buckets := map[string][]byte{}
	err := p.walk(p.root, func(e pair) error {
		if !e.bucket {
			return fmt.Errorf("it has %q beside its buckets", e.key)
		}
		buckets[string(e.key)] = bytes.Clone(e.value)
		return nil
	})
	if err != nil || len(buckets) == 0 { // bbolt's own first write, and the crash came before ours
		return err
	}
	read := func(name []byte, fn func(k, v []byte) error) {
		if err == nil {
			err = p.walkBucket(buckets[string(name)], func(e pair) error {
				if e.bucket {
					return fmt.Errorf("it has a bucket %q in %q", e.key, name)
				}
				return fn(e.key, e.value)
			})
		}
	}
	checked := false
	read(bucketMeta, func(k, v []byte) error { checked = true; return s.verifyKey(v) })
	if err == nil && !checked {
		err = errors.New("the check of its key is missing")
	}
	read(bucketEpochs, s.addEpoch)
	read(bucketStable, func(k, v []byte) error { _, err := s.openStable(k, v); return err })
	var prev uint64
	var l raft.Log
	read(bucketLog, func(k, v []byte) error {
		if len(k) != 8 {
			return fmt.Errorf("it has an entry under %q", k)
		}
		i := binary.BigEndian.Uint64(k)
		if prev != 0 && i != prev+1 {
			return fmt.Errorf("entry %d is missing", prev+1)
		}
		prev = i
		return s.open(i, v, &l)
	})
	if err != nil {
		return err
	}
	return p.checkFree()
}

// verifyKey tells another key from a damaged file.
func (s *logStore) verifyKey(check []byte) error {
	if len(check) != saltSize+tagSize {
		return errors.New("the check of its key is cut off")
	}
	want, err := newCheck(s.key, check[:saltSize])
	if err != nil {
		return err
	}
	if !bytes.Equal(want, check) {
		return fmt.Errorf("the check of its key fails: was it written with another key?")
	}
	return nil
}
