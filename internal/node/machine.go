package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/agent"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/network"
)

// Machine is what a daemon stands on. [Run] makes one of this host; the simulator has machines in memory.
type Machine struct {
	Engine Engine
	Kernel Kernel
	// Dial and Listen reach other nodes; nil is TCP.
	Dial   link.Dialer
	Listen func(addr string) (net.Listener, error)
	// Probe is told what becomes of a manager's log; it may be nil.
	Probe consensus.Probe
}

// Engine is the container engine with what a daemon does to it beside the contract.
type Engine interface {
	engine.Engine
	// Run looks after what outlives requests until ctx ends.
	Run(ctx context.Context) error
	LocalNetworks() []apinetwork.Inspect
	SetRegistries(insecure, mirrors []string) error
}

// Kernel is the host's network.
type Kernel interface {
	agent.Network
	// Connections is what [agent.Config] says of it.
	Connections() (map[netip.Addr]uint64, error)
	// Run repairs what others broke until ctx ends.
	Run(ctx context.Context) error
	// Check says what others broke, and repairs it.
	Check(ctx context.Context) ([]network.Finding, error)
	Close() error
}

func (m *Machine) listen(addr string) (net.Listener, error) {
	if m.Listen == nil {
		return nil, nil // package link listens on TCP
	}
	l, err := m.Listen(addr)
	if err != nil {
		return nil, fmt.Errorf("opening the swarm's port %s: %w", addr, err)
	}
	return l, nil
}

// RunOn runs a daemon on a machine that is not this host until ctx ends. Of the configuration only DataRoot counts. ready
// is given the Engine API once, when the node has taken up its membership.
func RunOn(ctx context.Context, m Machine, cfg Config, log *slog.Logger, ready func(http.Handler)) error {
	if err := os.MkdirAll(filepath.Join(cfg.DataRoot, "swarm"), 0o700); err != nil {
		return err
	}
	id, err := engineID(cfg.DataRoot)
	if err != nil {
		return err
	}
	n := &Node{cfg: cfg, version: "simulated", log: log, id: id}
	n.live.Store(&cfg)
	n.wire(m)
	defer n.close()
	return n.work(ctx, ready)
}
