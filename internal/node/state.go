package node

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/moby/moby/api/types/swarm"
)

// state is what a node remembers of its membership: DataRoot/swarm/state.json. Its certificate lies beside it.
type state struct {
	SwarmID, NodeID string
	Role            swarm.NodeRole
	// ListenAddr is where the node's own port is opened, a manager's only.
	ListenAddr string
	// AdvertiseAddr is where others find it, with the port.
	AdvertiseAddr string
	DataPathAddr  netip.Addr
	DataPathPort  uint16
	// Managers are the managers that are known, most recent knowledge.
	Managers []swarm.Peer
	// RaftKey seals the log and the snapshots on disk, 32 bytes.
	RaftKey []byte `json:",omitempty"`
	Lock
	// HasLog says that this manager has had entries of the swarm's log: one that is empty then was lost.
	HasLog bool `json:",omitempty"`
	// Bootstrap says that this node made the swarm; it starts a log of its own if there is none.
	Bootstrap bool `json:",omitempty"`
}

func newRaftKey() []byte {
	k := make([]byte, 32)
	rand.Read(k) // never fails: crypto/rand ends the program instead
	return k
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

// loadState returns nil for a node that is in no swarm.
func loadState(dir string) (*state, error) {
	data, err := os.ReadFile(statePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", statePath(dir), err)
	}
	return &s, nil
}

// save writes the state. While the swarm locks its managers, what opens the log is sealed in the file.
func (s *state) save(dir string) error {
	data, err := json.MarshalIndent(s.onDisk(), "", "\t")
	if err != nil {
		return err
	}
	return writeFile(statePath(dir), data)
}

// writeFile replaces a file so that after a crash it is the old one or the new one, whole.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
