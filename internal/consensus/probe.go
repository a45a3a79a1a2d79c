package consensus

import (
	"io"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// Probe sees what a manager does to its disk and to its store, and may stand in the way: the simulator's seam. Its
// methods are called by Raft's goroutines and may take their time, as a disk does.
type Probe interface {
	// BeforeWrite is called before something is written to the disk; an error stands for the disk's. Raft cannot go on
	// where its term or its vote is not written, so only a write of entries may fail.
	BeforeWrite(w Write) error
	// AfterWrite is called when it is on the disk.
	AfterWrite(w Write)
	// Applied is called with every entry that the store has just applied, in the log's order.
	Applied(s *store.Store, index uint64, entry []byte)
	// Restored is called when the store was replaced by that of a snapshot.
	Restored(s *store.Store)
}

// Write is one write to the disk.
type Write struct {
	// Entries are the indexes of the entries; empty where it is one of Raft's own values.
	Entries []uint64
	// Key is the name of Raft's own value: its term, its vote.
	Key string
}

// disk is what Raft keeps on the disk.
type disk interface {
	raft.LogStore
	raft.StableStore
}

// probed puts the probe between Raft and its files and store.
func (c Config) probed(logs *logStore) (disk, raft.FSM) {
	f := &fsm{c.Store}
	if c.Probe == nil {
		return logs, f
	}
	return &probedDisk{logs, c.Probe}, &probedFSM{f, c.Probe}
}

type probedDisk struct {
	*logStore
	probe Probe
}

func (d *probedDisk) write(w Write, do func() error) error {
	if err := d.probe.BeforeWrite(w); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	d.probe.AfterWrite(w)
	return nil
}

// StoreLog stores an entry.
func (d *probedDisk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries.
func (d *probedDisk) StoreLogs(ls []*raft.Log) error {
	var w Write
	for _, l := range ls {
		w.Entries = append(w.Entries, l.Index)
	}
	return d.write(w, func() error { return d.logStore.StoreLogs(ls) })
}

// Set stores one of Raft's own values.
func (d *probedDisk) Set(key, val []byte) error {
	return d.write(Write{Key: string(key)}, func() error { return d.logStore.Set(key, val) })
}

// SetUint64 stores a number.
func (d *probedDisk) SetUint64(key []byte, val uint64) error {
	return d.write(Write{Key: string(key)}, func() error { return d.logStore.SetUint64(key, val) })
}

type probedFSM struct {
	*fsm
	probe Probe
}

// Apply applies an entry.
func (f *probedFSM) Apply(l *raft.Log) any {
	r := f.fsm.Apply(l)
	f.probe.Applied(f.store, l.Index, l.Data)
	return r
}

// ApplyBatch applies what is committed together.
func (f *probedFSM) ApplyBatch(logs []*raft.Log) []any {
	out := f.fsm.ApplyBatch(logs)
	for _, l := range logs {
		if l.Type == raft.LogCommand {
			f.probe.Applied(f.store, l.Index, l.Data)
		}
	}
	return out
}

// Restore replaces what is in the store.
func (f *probedFSM) Restore(r io.ReadCloser) error {
	err := f.fsm.Restore(r)
	f.probe.Restored(f.store)
	return err
}
