package node

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/attach"
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/link"
)

// attachRequest is what a node asks for a plain container: exactly one of the fields is set.
type attachRequest struct {
	Find   string                 `json:",omitempty"` // a network of the swarm
	Attach *cluster.AttachRequest `json:",omitempty"`
	Detach []string               `json:",omitempty"`
	// NodeID is the node that asks, where a manager passes it on.
	NodeID string `json:",omitempty"`
}

type attachResponse struct {
	Network    *network.Inspect    `json:",omitempty"`
	Attachment *cluster.Attachment `json:",omitempty"`
}

// attachRoute answers a node. Who a node says that it is counts from managers only, which pass requests on.
func (m *manager) attachRoute(n *Node) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req attachRequest
		if !read(w, r, &req) {
			return
		}
		peer, ok := link.PeerFrom(r.Context())
		if !ok {
			answer(w, nil, errdefs.ErrPermissionDenied.WithMessage("only members may ask this"))
			return
		}
		passed := req.NodeID != "" && m.isManager(peer)
		if !passed {
			req.NodeID = peer.NodeID
		}
		var out attachResponse
		here := func() (err error) {
			out, err = n.serveAttach(r.Context(), req)
			return err
		}
		if passed || req.Find != "" {
			answer(w, &out, here())
			return
		}
		answer(w, &out, m.onLeader(r.Context(), here, pathAttach, &req, &out))
	}
}

func (n *Node) serveAttach(ctx context.Context, r attachRequest) (out attachResponse, err error) {
	switch {
	case r.Attach != nil:
		out.Attachment, err = n.control.Attach(ctx, r.NodeID, *r.Attach)
	case len(r.Detach) > 0:
		err = n.control.Detach(ctx, r.NodeID, r.Detach)
	default:
		out.Network, err = n.control.Network(ctx, r.Find, false)
	}
	return out, err
}

// attachments is the swarm as package attach sees it: it asks the manager that the node's agent has a link to.
type attachments struct{ n *Node }

func (s attachments) ask(ctx context.Context, r attachRequest) (out attachResponse, err error) {
	m := s.n.member.Load()
	switch {
	case m == nil && s.n.locked.Load() != nil:
		return out, fmt.Errorf("the swarm of this node is locked: %w", attach.ErrAway)
	case m == nil:
		return out, errdefs.ErrNotFound.WithMessage("this node is not part of a swarm")
	}
	l := m.link.Load()
	if l == nil {
		return out, attach.ErrAway
	}
	select {
	case <-l.Done():
		return out, attach.ErrAway
	default:
	}
	return out, post(ctx, l.Client(), pathAttach, &r, &out)
}

// Find implements attach.Swarm.
func (s attachments) Find(ctx context.Context, ref string) (*network.Inspect, error) {
	out, err := s.ask(ctx, attachRequest{Find: ref})
	if err == nil && out.Network == nil {
		err = fmt.Errorf("the manager's answer has no network")
	}
	return out.Network, err
}

// Attach implements attach.Swarm.
func (s attachments) Attach(ctx context.Context, r cluster.AttachRequest) (*cluster.Attachment, error) {
	out, err := s.ask(ctx, attachRequest{Attach: &r})
	if err == nil && out.Attachment == nil {
		err = fmt.Errorf("the manager's answer has no attachment")
	}
	return out.Attachment, err
}

// Detach implements attach.Swarm.
func (s attachments) Detach(ctx context.Context, taskIDs []string) error {
	_, err := s.ask(ctx, attachRequest{Detach: taskIDs})
	return err
}

// onAttachments passes on what the agent hears.
func (m *Machine) onAttachments() func([]cluster.Attachment) {
	if m.Attach == nil {
		return nil
	}
	return m.Attach.Take
}

// leaveNetworks takes plain containers off the networks of a swarm that the node is to leave.
func (n *Node) leaveNetworks(ctx context.Context) {
	for _, i := range n.engine.LocalNetworks() {
		if i.Scope != "swarm" {
			continue
		}
		for id := range i.Containers {
			if c, err := n.engine.Inspect(ctx, id); err != nil || c.Config.Labels[labelTask] != "" {
				continue
			}
			if err := n.engine.Disconnect(ctx, i.ID, id, true); err != nil {
				n.log.Warn("a container stays on a network of the swarm", "container", id, "network", i.Name, "error", err)
			}
		}
	}
}
