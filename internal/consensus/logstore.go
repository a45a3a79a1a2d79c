package consensus

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The buckets of the file. Entries are under their index, 8 bytes big-endian:
//
//	epoch (4 bytes), counter (8 bytes), sealed: type (1), term (8), time (8+4), length of extensions (4), extensions, data
//
// The index is the seal's associated data, so an entry in another's place is found out. An epoch is one run of the
// daemon; its salt is in bucketEpochs. Terms and votes (bucketStable) are sealed likewise.
var (
	bucketLog    = []byte("log")
	bucketStable = []byte("stable")
	bucketEpochs = []byte("epochs")
	bucketMeta   = []byte("meta")
	keyCheck     = []byte("check")
)

const (
	purposeLog   = "shoal log 1"
	purposeCheck = "shoal log check 1"

	sealPrefix  = 4 + 8
	entryHeader = 1 + 8 + 8 + 4 + 4

	// deleteBatch is how many entries one transaction deletes; new entries wait for it (about 10 ms).
	deleteBatch = 2000
	// recentEntries and recentBytes bound the newest entries that are kept in memory for managers that follow closely.
	recentEntries = 512
	recentBytes   = 4 << 20

	lockTimeout = 2 * time.Second
)

// logStore is raft's log and stable store in one bbolt file. Every write is on the disk when it returns.
type logStore struct {
	db    *bbolt.DB
	path  string
	key   []byte
	epoch uint32
	seal  cipher.AEAD
	count atomic.Uint64 // the last nonce that was used
	log   *slog.Logger
	// closing, once closed, ends what waits for room on the disk.
	closing chan struct{}

	mu          sync.RWMutex
	first, last uint64
	recent      []*raft.Log // contiguous, up to last
	recentSize  int

	// ciphers are those of all epochs; they do not change after openLogStore.
	ciphers map[uint32]cipher.AEAD
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.StableStore       = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// openLogStore opens or makes the file. It reads all of an existing one, which is bounded by the snapshots, and returns an error that
// names the first thing that is damaged.
func openLogStore(path string, key []byte) (*logStore, error) {
	s := &logStore{path: path, key: key, ciphers: map[uint32]cipher.AEAD{}, log: slog.New(slog.DiscardHandler), closing: make(chan struct{})}
	if err := s.verify(); err != nil {
		return nil, err
	}
	var err error
	s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: 32 << 20,
	})
	if err != nil {
		return nil, s.openError(err)
	}
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return s, nil
}

func (s *logStore) openError(err error) error {
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("the swarm's log %s is in use by another process", s.path)
	}
	return fmt.Errorf("opening the swarm's log %s: %w", s.path, err)
}

// begin makes what a new file lacks and starts an epoch.
func (s *logStore) begin() error {
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketLog, bucketStable, bucketEpochs, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		epochs := tx.Bucket(bucketEpochs)
		if k, _ := epochs.Cursor().Last(); len(k) == 4 {
			s.epoch = binary.BigEndian.Uint32(k)
		}
		s.epoch++
		id := binary.BigEndian.AppendUint32(nil, s.epoch)
		if err := errors.Join(s.addEpoch(id, salt), epochs.Put(id, salt)); err != nil {
			return err
		}
		s.seal = s.ciphers[s.epoch]
		c := tx.Bucket(bucketLog).Cursor()
		if k, _ := c.First(); k != nil {
			s.first = binary.BigEndian.Uint64(k)
		}
		if k, _ := c.Last(); k != nil {
			s.last = binary.BigEndian.Uint64(k)
		}
		check, err := newCheck(s.key, salt)
		if err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyCheck, check)
	})
}

// newCheck is a value by which another key is told from a damaged file.
func newCheck(key, salt []byte) ([]byte, error) {
	a, err := deriveAEAD(key, salt, purposeCheck)
	if err != nil {
		return nil, err
	}
	return a.Seal(bytes.Clone(salt), nonce(0, 0), nil, nil), nil
}

// Close closes the file.
func (s *logStore) Close() error { return s.db.Close() }

// IsMonotonic tells raft that the log never has a hole.
func (s *logStore) IsMonotonic() bool { return true }

// FirstIndex is the index of the oldest entry, 0 without any.
func (s *logStore) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.first, nil
}

// LastIndex is the index of the newest entry, 0 without any.
func (s *logStore) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.last, nil
}

// GetLog reads an entry. A damaged one is an error that names it.
func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	if s.fromRecent(index, l) {
		return nil
	}
	return s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketLog).Get(indexKey(index))
		if v == nil {
			return raft.ErrLogNotFound
		}
		return s.open(index, v, l)
	})
}

func (s *logStore) fromRecent(index uint64, l *raft.Log) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.recent) == 0 || index < s.recent[0].Index || index > s.last {
		return false
	}
	*l = *s.recent[index-s.recent[0].Index]
	return true
}

// StoreLog stores one entry.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries with ascending indexes; they are on the disk when it returns. They replace those that are there from the first of
// them on. Entries that do not follow on those that are there replace them all: raft does so after a snapshot, where those that are there are
// older than it. After an error the log is as it was.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	s.mu.RLock()
	last := s.last
	s.mu.RUnlock()
	first := logs[0].Index
	hole := last != 0 && first > last+1
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if hole {
			if err := tx.DeleteBucket(bucketLog); err != nil {
				return err
			}
			if _, err := tx.CreateBucket(bucketLog); err != nil {
				return err
			}
		}
		b := tx.Bucket(bucketLog)
		b.FillPercent = 0.95 // they come in order
		if !hole && first <= last {
			if err := deleteEntries(b, first, last); err != nil {
				return err
			}
		}
		for i, l := range logs {
			if l.Index != first+uint64(i) {
				return fmt.Errorf("entry %d follows on %d", l.Index, first+uint64(i)-1)
			}
			if err := b.Put(indexKey(l.Index), s.sealed(l)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing entries %d to %d to %s: %w", first, logs[len(logs)-1].Index, s.path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == 0 || hole || first < s.first {
		s.first = first
	}
	if first <= s.last {
		s.forget()
	}
	s.last = logs[len(logs)-1].Index
	s.remember(logs)
	return nil
}

// remember keeps the newest entries in memory.
func (s *logStore) remember(logs []*raft.Log) {
	if n := len(s.recent); n > 0 && s.recent[n-1].Index+1 != logs[0].Index {
		s.forget()
	}
	for _, l := range logs {
		c := *l
		s.recent = append(s.recent, &c)
		s.recentSize += len(c.Data)
	}
	drop := 0
	for drop < len(s.recent) && (len(s.recent)-drop > recentEntries || s.recentSize > recentBytes) {
		s.recentSize -= len(s.recent[drop].Data)
		s.recent[drop] = nil
		drop++
	}
	s.recent = s.recent[drop:]
}

func (s *logStore) forget() { s.recent, s.recentSize = nil, 0 }

// DeleteRange deletes the oldest entries, or all. A crash in between leaves no hole.
//
// The newest are deleted by the StoreLogs that brings those in their place. Raft goes on as if it had them where that fails, for want of room,
// and would wait for ever for one that is not there; nor may it, as a leader, put its next entry behind a hole.
func (s *logStore) DeleteRange(low, high uint64) error {
	s.mu.Lock()
	first, last := s.first, s.last
	s.mu.Unlock()
	low, high = max(low, first), min(high, last)
	if first == 0 || low > high {
		return nil
	}
	if low != first {
		if high != last {
			return fmt.Errorf("deleting entries %d to %d from the middle of the log, which has %d to %d", low, high, first, last)
		}
		return nil
	}
	s.mu.Lock()
	s.forget()
	s.mu.Unlock()
	for low <= high {
		to := min(high, low+deleteBatch-1)
		err := s.db.Update(func(tx *bbolt.Tx) error { return deleteEntries(tx.Bucket(bucketLog), low, to) })
		if err != nil {
			return fmt.Errorf("deleting entries %d to %d from %s: %w", low, to, s.path, err)
		}
		s.mu.Lock()
		if s.first = to + 1; to == s.last {
			s.first, s.last = 0, 0
		}
		s.mu.Unlock()
		low = to + 1
	}
	return nil
}

func deleteEntries(b *bbolt.Bucket, from, to uint64) error {
	c := b.Cursor()
	// Delete moves the cursor on.
	for k, _ := c.Seek(indexKey(from)); k != nil && binary.BigEndian.Uint64(k) <= to; k, _ = c.Seek(indexKey(from)) {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// sealed is the entry's value.
func (s *logStore) sealed(l *raft.Log) []byte {
	plain := make([]byte, 0, entryHeader+len(l.Extensions)+len(l.Data))
	plain = append(plain, byte(l.Type))
	plain = binary.BigEndian.AppendUint64(plain, l.Term)
	var sec int64
	var nsec int
	if !l.AppendedAt.IsZero() {
		sec, nsec = l.AppendedAt.Unix(), l.AppendedAt.Nanosecond()
	}
	plain = binary.BigEndian.AppendUint64(plain, uint64(sec))
	plain = binary.BigEndian.AppendUint32(plain, uint32(nsec))
	plain = binary.BigEndian.AppendUint32(plain, uint32(len(l.Extensions)))
	plain = append(append(plain, l.Extensions...), l.Data...)

	return s.sealBytes(plain, indexKey(l.Index))
}

// sealBytes seals a value for the place that binding names.
func (s *logStore) sealBytes(plain, binding []byte) []byte {
	n := s.count.Add(1)
	out := make([]byte, 0, sealPrefix+len(plain)+tagSize)
	out = binary.BigEndian.AppendUint32(out, s.epoch)
	out = binary.BigEndian.AppendUint64(out, n)
	return s.seal.Seal(out, nonce(0, n), plain, binding)
}

// openBytes opens what sealBytes sealed.
func (s *logStore) openBytes(v, binding []byte) ([]byte, error) {
	if len(v) < sealPrefix+tagSize {
		return nil, fmt.Errorf("it is cut off after %d bytes", len(v))
	}
	c := s.ciphers[binary.BigEndian.Uint32(v)]
	if c == nil {
		return nil, fmt.Errorf("its epoch %d is unknown", binary.BigEndian.Uint32(v))
	}
	p, err := c.Open(nil, nonce(0, binary.BigEndian.Uint64(v[4:])), v[sealPrefix:], binding)
	if err != nil {
		return nil, errSeal
	}
	return p, nil
}

// open reads an entry's value.
func (s *logStore) open(index uint64, v []byte, l *raft.Log) error {
	p, err := s.openBytes(v, indexKey(index))
	if err == nil && len(p) < entryHeader {
		err = fmt.Errorf("it has only %d bytes", len(p))
	}
	var ext int
	if err == nil {
		if ext = int(binary.BigEndian.Uint32(p[21:])); ext > len(p)-entryHeader {
			err = errors.New("its length is wrong")
		}
	}
	if err != nil {
		return &damage{fmt.Sprintf("entry %d of the swarm's log %s", index, s.path), err}
	}
	*l = raft.Log{Index: index, Type: raft.LogType(p[0]), Term: binary.BigEndian.Uint64(p[1:])}
	if sec, nsec := int64(binary.BigEndian.Uint64(p[9:])), binary.BigEndian.Uint32(p[17:]); sec != 0 || nsec != 0 {
		l.AppendedAt = time.Unix(sec, int64(nsec))
	}
	body := p[entryHeader:]
	if ext > 0 {
		l.Extensions = slices.Clip(body[:ext])
	}
	l.Data = body[ext:]
	return nil
}

// addEpoch makes the cipher of an epoch, while the log is being opened.
func (s *logStore) addEpoch(k, salt []byte) error {
	if len(k) != 4 || len(salt) != saltSize {
		return fmt.Errorf("its epoch %x is wrong", k)
	}
	c, err := deriveAEAD(s.key, salt, purposeLog)
	if err != nil {
		return err
	}
	s.ciphers[binary.BigEndian.Uint32(k)] = c
	return nil
}

func indexKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }
