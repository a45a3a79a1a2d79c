package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// seen is the newest state of the swarm that the agent knows of. It outlives the process, so that after a restart a
// manager that is behind is not believed.
type seen struct {
	Epoch   uint64
	Version uint64
}

const seenFile = "agent.json"

// loadSeen reads what saveSeen wrote; nothing is the zero value.
func loadSeen(dir string) (seen, error) {
	var s seen
	b, err := os.ReadFile(filepath.Join(dir, seenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading what the agent has seen: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return seen{}, fmt.Errorf("reading what the agent has seen from %s: %w", filepath.Join(dir, seenFile), err)
	}
	return s, nil
}

// saveSeen replaces the file whole. It reaches the disk at once only if durable, which a new epoch is worth.
func saveSeen(dir string, s seen, durable bool) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, seenFile+".*")
	if err != nil {
		return fmt.Errorf("writing what the agent has seen: %w", err)
	}
	_, err = f.Write(b)
	if durable {
		err = errors.Join(err, f.Sync())
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, seenFile))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("writing what the agent has seen: %w", err)
	}
	return nil
}
