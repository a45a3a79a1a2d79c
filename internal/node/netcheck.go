package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/local"
	"shoal.dev/shoal/internal/store"
)

const (
	// pathOwnNetwork is where a node says what it was told of networks and what its kernel has of them: POST, answered
	// with an ownNetwork. Only managers may ask.
	pathOwnNetwork = "/shoal/v1/network"
	// checkTime bounds the asking of one node. What differs for less is on its way.
	checkTime = 5 * time.Second
	// checkAgain is the time between two questions.
	checkAgain = 200 * time.Millisecond
)

// ownNetwork is what a node says of its network.
type ownNetwork struct {
	Told network.Desired
	// Failed is why the kernel does not hold it.
	Failed string `json:",omitempty"`
	// Found is what of the kernel was not as it was left. It is repaired.
	Found []network.Finding `json:",omitempty"`
}

func (n *Node) ownNetwork(w http.ResponseWriter, r *http.Request) {
	if p, ok := link.PeerFrom(r.Context()); !ok || !n.trusts(p) {
		answer(w, nil, errdefs.ErrPermissionDenied.WithMessage("only managers may ask this"))
		return
	}
	m := n.member.Load()
	if m == nil || m.agent.Load() == nil {
		answer(w, nil, errdefs.ErrUnavailable.WithMessage("the node's agent does not run yet"))
		return
	}
	var out ownNetwork
	found, err := n.kernel.Check(r.Context())
	told, failed := m.agent.Load().Network()
	out.Told, out.Found = told, found
	if err = cmp.Or(err, failed); err != nil {
		out.Failed = err.Error()
	}
	answer(w, out, nil)
}

// CheckNetworks implements [httpapi.Upkeep].
func (n *Node) CheckNetworks(ctx context.Context, ref string) (*httpapi.NetworkCheck, error) {
	m := n.manager()
	if m == nil {
		_, err := n.control.Networks(ctx)
		return nil, cmp.Or(err, errdefs.ErrUnavailable.WithMessage(control.NotManager))
	}
	all, err := n.control.Networks(ctx)
	if err != nil {
		return nil, err
	}
	only := ""
	if ref != "" {
		i, err := local.Pick(all, ref, "swarm")
		if err != nil {
			return nil, err
		}
		only = i.ID
	}
	c := &checking{only: only, names: map[string]string{}, out: &httpapi.NetworkCheck{Networks: []httpapi.NetworkOnNode{}}}
	for _, i := range all {
		c.names[i.ID] = i.Name
		if i.Ingress {
			c.ingress = i.ID
		}
	}
	var asked sync.WaitGroup
	for node := range store.List[*cluster.Node](m.store.Snapshot()) {
		who := httpapi.SilentNode{NodeID: node.ID, Hostname: node.Description.Hostname}
		if node.Status.State == swarm.NodeStateDown {
			who.Why = node.Status.Message
			c.out.Down = append(c.out.Down, who)
			continue
		}
		asked.Go(func() {
			found, want, err := m.compareNetwork(ctx, node.ID)
			c.add(who, found, want, err)
		})
	}
	asked.Wait()
	slices.SortFunc(c.out.Networks, func(a, b httpapi.NetworkOnNode) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Hostname, b.Hostname), cmp.Compare(a.NodeID, b.NodeID))
	})
	for _, list := range [][]httpapi.SilentNode{c.out.Silent, c.out.Down} {
		slices.SortFunc(list, func(a, b httpapi.SilentNode) int { return cmp.Compare(a.Hostname, b.Hostname) })
	}
	return c.out, nil
}

// compareNetwork asks a node until it agrees with the records, or its time is over. What its kernel had lost counts even
// though it is there again.
func (m *manager) compareNetwork(ctx context.Context, nodeID string) (found []network.Finding, want *network.Desired, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	again := time.NewTicker(checkAgain)
	defer again.Stop()
	for {
		var own ownNetwork
		if own, err = m.askNetwork(ctx, nodeID); err != nil && ctx.Err() == nil {
			return nil, nil, err
		}
		if want = m.dispatch.Network(nodeID); want == nil {
			return nil, nil, errdefs.ErrUnavailable.WithMessage("this manager is starting")
		}
		var differ []network.Finding
		if err == nil {
			found = append(found, own.Found...)
			differ = network.Differences(*want, own.Told)
			if own.Failed != "" {
				differ = append(differ, network.Finding{What: "the kernel does not hold what the node was told: " + own.Failed})
			}
			if len(differ) == 0 {
				return found, want, nil
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			if err != nil {
				return nil, nil, err
			}
			return append(found, differ...), want, nil
		}
	}
}

func (m *manager) askNetwork(ctx context.Context, nodeID string) (out ownNetwork, err error) {
	to, err := m.reach(ctx, nodeID, m.managers())
	if err != nil {
		return out, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node"+pathOwnNetwork, nil)
	if err != nil {
		return out, err
	}
	resp, err := to.RoundTrip(req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return out, fmt.Errorf("it answered %s", resp.Status)
	}
	return out, json.NewDecoder(io.LimitReader(resp.Body, protocol.MaxFrame)).Decode(&out)
}

// checking puts together what nodes answer.
type checking struct {
	only    string // the ID of the one network that is asked for, or ""
	ingress string // the routing mesh's ID
	names   map[string]string

	mu  sync.Mutex
	out *httpapi.NetworkCheck
}

func (c *checking) add(who httpapi.SilentNode, found []network.Finding, want *network.Desired, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		who.Why = err.Error()
		c.out.Silent = append(c.out.Silent, who)
		return
	}
	by := map[string][]string{}
	if want.Ingress != nil {
		by[c.ingress] = []string{}
	}
	for _, o := range want.Overlays {
		by[o.ID] = []string{}
	}
	for _, f := range found {
		id := f.Network
		if id == network.MeshNetwork {
			id = c.ingress
		}
		by[id] = append(by[id], f.What)
	}
	for id, what := range by {
		if c.only == "" || id == c.only {
			c.out.Networks = append(c.out.Networks, httpapi.NetworkOnNode{ID: id, Name: cmp.Or(c.names[id], id), NodeID: who.NodeID, Hostname: who.Hostname, Differences: what})
		}
	}
}
