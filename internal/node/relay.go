package node

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
	"shoal.dev/shoal/internal/tasklog"
)

// A manager reaches a node over the link that the node holds to some manager: its own, or that of another manager, which
// passes the request on. Who passes it on looks at its own links only, so that nothing goes round.
const (
	pathLinked  = "/manager/v1/linked" // POST linkedRequest: whether a manager has a node's link
	relayPrefix = "/node/"             // /node/ID/PATH: PATH on the node
)

type linkedRequest struct{ NodeID string }

type linkedResponse struct{ Linked bool }

// serveManagers is what a node serves to the managers that it holds links to: the logs of tasks and its Engine API.
func (n *Node) serveManagers() http.Handler {
	logs := tasklog.Handler(n.engine)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutPrefix(r.URL.Path, enginePrefix+"/"); ok {
			n.serveEngine(w, r, "/"+path)
			return
		}
		logs.ServeHTTP(w, r)
	})
}

// trusts says whether the peer is a manager, by its certificate and, on a manager, by its record.
func (n *Node) trusts(p link.Peer) bool {
	if m := n.manager(); m != nil {
		return m.isManager(p)
	}
	return p.Role == swarm.NodeRoleManager
}

// routeNodes adds the routes by which managers reach nodes through each other.
func (m *manager) routeNodes(mux *http.ServeMux) {
	mux.Handle("POST "+pathLinked, m.managersOnly(func(w http.ResponseWriter, r *http.Request) {
		var req linkedRequest
		if !read(w, r, &req) {
			return
		}
		_, ok := m.server.Link(req.NodeID)
		answer(w, linkedResponse{ok}, nil)
	}))
	mux.Handle(relayPrefix, m.managersOnly(func(w http.ResponseWriter, r *http.Request) {
		id, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, relayPrefix), "/")
		l, ok := m.server.Link(id)
		if !ok {
			unavailable(w, "node "+id+" has no connection to this manager")
			return
		}
		relay(l, "/"+path).ServeHTTP(w, r)
	}))
}

// relay passes a request on over a link.
func relay(l http.RoundTripper, path string) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", "node", "node"
			p.Out.URL.Path, p.Out.URL.RawPath = path, ""
		},
		Transport:      l,
		FlushInterval:  -1,
		ModifyResponse: markBroken,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, err error) { unavailable(w, err.Error()) },
	}
}

// relayed sends requests to a node through another manager.
type relayed struct {
	via    *link.Link
	nodeID string
}

func (t relayed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawPath = relayPrefix+t.nodeID+r.URL.Path, ""
	return t.via.RoundTrip(r)
}

// reach is the way to a node. An error says that none of the managers that can be reached has a link of the node.
func (m *manager) reach(ctx context.Context, nodeID string, managers []swarm.Peer) (http.RoundTripper, error) {
	if l, ok := m.server.Link(nodeID); ok {
		return l, nil
	}
	if _, ok := store.Get[*cluster.Node](m.store.Snapshot(), nodeID); !ok {
		return nil, errdefs.ErrUnavailable.WithMessage("it is not part of the swarm any more")
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	found := make(chan *link.Link, len(managers))
	asked := 0
	for _, p := range managers {
		if p.NodeID == m.st.NodeID {
			continue
		}
		asked++
		go func() {
			var out linkedResponse
			l, err := m.peers.to(ctx, p.Addr)
			if err == nil {
				err = post(ctx, l.Client(), pathLinked, linkedRequest{nodeID}, &out)
			}
			if err != nil || !out.Linked {
				l = nil
			}
			found <- l
		}()
	}
	for range asked {
		if l := <-found; l != nil {
			return relayed{l, nodeID}, nil
		}
	}
	return nil, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("none of the %d managers that were asked has a connection to it", asked+1))
}

// reachNode is [manager.reach] of whatever manager this node is now.
func (n *Node) reachNode(ctx context.Context, nodeID string) (http.RoundTripper, error) {
	m := n.manager()
	if m == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("this node is not a manager any more")
	}
	return m.reach(ctx, nodeID, m.managers())
}
