package node

import (
	"context"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
)

// host is the node as httpapi's Host.
type host struct{ n *Node }

func (h host) Info(ctx context.Context) (system.Info, error) { return h.n.hostInfo(ctx) }

// Info is this node's view of the swarm, for httpapi's Swarm.
func (n *Node) Info(context.Context) swarm.Info { return n.swarmInfo() }
