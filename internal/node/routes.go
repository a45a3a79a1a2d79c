package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// What managers ask each other, and what a node asks that is not a member yet.
const (
	pathJoin      = "/join"                  // POST joinRequest, without a client certificate
	pathIssue     = "/manager/v1/issue"      // POST joinRequest, a manager passing it on
	pathVoter     = "/manager/v1/voter"      // POST voterRequest: a manager that has its certificate asks for a vote
	pathRenew     = "/manager/v1/renew"      // POST renewRequest: a node asks for a certificate in place of its own
	pathReissue   = "/manager/v1/reissue"    // POST renewRequest, a manager passing it on
	pathNetwork   = "/manager/v1/network"    // POST networkRequest: a manager passing on that a network is made or removed
	pathAttach    = "/manager/v1/attach"     // POST attachRequest: a node about the places of its plain containers
	pathReadIndex = "/manager/v1/read-index" // POST: the index that a read must wait for

	maxBody = 64 << 10 // bytes; the largest is a certificate request
)

type readIndexResponse struct{ Index uint64 }

// joinRequest asks for membership. The token's secret proves the right to it and says the role.
type joinRequest struct {
	Token        string
	CSR          []byte
	Availability swarm.NodeAvailability
	// AdvertiseAddr is host:port; the manager fills in the address that it sees if the host is missing.
	AdvertiseAddr string
	DataPathAddr  netip.Addr `json:"DataPathAddr,omitzero"`
	Description   swarm.NodeDescription
	// Level is the highest feature level that the node's version knows.
	Level int
}

type joinResponse struct {
	SwarmID, NodeID string
	Role            swarm.NodeRole
	Cert            []byte
	AdvertiseAddr   string
	DataPathPort    uint16
	Managers        []swarm.Peer
	// Clock is what the manager's clock says.
	Clock time.Time `json:"Clock,omitzero"`
	// UnlockKey and LockVersion are a new manager's lock, see Lock.
	UnlockKey   []byte `json:",omitempty"`
	LockVersion uint64 `json:",omitempty"`
}

// voterRequest asks to take part in the consensus.
type voterRequest struct{ NodeID, Addr string }

// errorBody is how a refusal travels: its text, with the status as its class.
type errorBody struct {
	Message string `json:"message"`
}

// routes is what a manager serves to nodes with a certificate.
func (m *manager) routes(n *Node) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/dispatch/", m.dispatch.Handler())
	mux.Handle("POST "+pathReadIndex, m.managersOnly(func(w http.ResponseWriter, r *http.Request) {
		index, err := m.cons.ReadIndex(r.Context())
		answer(w, readIndexResponse{index}, err)
	}))
	mux.Handle("POST "+pathIssue, m.managersOnly(func(w http.ResponseWriter, r *http.Request) {
		var req joinRequest
		if !read(w, r, &req) {
			return
		}
		out, err := m.issue(r.Context(), &req)
		answer(w, out, err)
	}))
	mux.HandleFunc("POST "+pathRenew, func(w http.ResponseWriter, r *http.Request) {
		var req renewRequest
		if !read(w, r, &req) {
			return
		}
		peer, ok := link.PeerFrom(r.Context())
		if !ok {
			answer(w, nil, errdefs.ErrPermissionDenied.WithMessage("only members may ask this"))
			return
		}
		req.NodeID = peer.NodeID // whatever it says: a node asks for itself
		var out renewResponse
		err := m.onLeader(r.Context(), func() (err error) {
			out, err = m.reissue(req)
			return err
		}, pathReissue, &req, &out)
		answer(w, out, err)
	})
	mux.Handle("POST "+pathReissue, m.managersOnly(func(w http.ResponseWriter, r *http.Request) {
		var req renewRequest
		if !read(w, r, &req) {
			return
		}
		out, err := m.reissue(req)
		answer(w, out, err)
	}))
	mux.Handle("POST "+pathVoter, m.managersOnly(func(w http.ResponseWriter, r *http.Request) {
		var req voterRequest
		if !read(w, r, &req) {
			return
		}
		answer(w, struct{}{}, m.addVoter(r.Context(), req))
	}))
	mux.Handle("POST "+pathAddress, m.managersOnly(func(w http.ResponseWriter, r *http.Request) {
		var req addressRequest
		if !read(w, r, &req) {
			return
		}
		answer(w, struct{}{}, m.onLeader(r.Context(), func() error { return m.setAddress(r.Context(), req) }, pathAddress, req, nil))
	}))
	mux.HandleFunc("POST "+pathAttach, m.attachRoute(n))
	mux.Handle("POST "+pathNetwork, m.managersOnly(func(w http.ResponseWriter, r *http.Request) {
		var req networkRequest
		if !read(w, r, &req) {
			return
		}
		out, err := n.changeNetwork(r.Context(), req)
		answer(w, out, err)
	}))
	mux.Handle("POST "+pathHealth, m.managersOnly(m.healthRoute(n)))
	m.routeNodes(mux)
	mux.HandleFunc(apiPrefix+"/", n.serveForwarded)
	return mux
}

// managersOnly lets requests of managers pass: of nodes whose certificate says so and whose record, if this replica has
// it, does not say otherwise. A node that was demoted keeps a certificate for a while that says more than it may.
func (m *manager) managersOnly(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := link.PeerFrom(r.Context()); !ok || !m.isManager(p) {
			answer(w, nil, errdefs.ErrPermissionDenied.WithMessage("only managers may ask this"))
			return
		}
		h(w, r)
	})
}

func (m *manager) isManager(p link.Peer) bool {
	node, known := store.Get[*cluster.Node](m.store.Snapshot(), p.NodeID)
	return p.Role == swarm.NodeRoleManager && (!known || node.Spec.Role == swarm.NodeRoleManager)
}

// joinRoutes is what a manager serves to strangers: certificate requests, no more.
func (m *manager) joinRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathJoin, func(w http.ResponseWriter, r *http.Request) {
		var req joinRequest
		if !read(w, r, &req) {
			return
		}
		req.AdvertiseAddr = completeAddr(req.AdvertiseAddr, r.RemoteAddr)
		var out joinResponse
		err := m.onLeader(r.Context(), func() error {
			got, err := m.issue(r.Context(), &req)
			if err == nil {
				out = *got
			}
			return err
		}, pathIssue, &req, &out)
		answer(w, out, err)
	})
	return mux
}

// completeAddr puts the host of remote where addr has none.
func completeAddr(addr, remote string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = addr, DefaultPort
	}
	if host == "" {
		host, _, _ = net.SplitHostPort(remote)
	}
	return net.JoinHostPort(host, port)
}

// onLeader runs here if this manager leads, else asks the leader at path.
func (m *manager) onLeader(ctx context.Context, here func() error, path string, in, out any) error {
	if !m.waitLeader(ctx, leaderWait) {
		return errdefs.ErrUnavailable.WithMessage(control.NoLeader)
	}
	if m.cons.IsLeader() {
		return here()
	}
	return m.askLeader(ctx, path, in, out)
}

func (m *manager) askLeader(ctx context.Context, path string, in, out any) error {
	return post(ctx, &http.Client{Transport: leaderTransport{m}}, path, in, out)
}

// issue makes a member: its record and its certificate. It must run on the leader.
func (m *manager) issue(ctx context.Context, req *joinRequest) (*joinResponse, error) {
	now := time.Now()
	var out joinResponse
	_, err := m.store.Update(ctx, func(tx *store.Tx) error {
		s := tx.Swarm()
		ca, ok := store.Get[*cluster.Authority](tx.Snapshot, cluster.SingletonID)
		if s == nil || !ok {
			return errdefs.ErrUnavailable.WithMessage(control.NoLeader)
		}
		role, err := roleOf(s, req.Token)
		if err != nil {
			return err
		}
		if err := checkLevel(s, role, req.Level); err != nil {
			return err
		}
		id := cluster.NewID()
		cert, err := pki.Sign(ca, req.CSR, s.ID, id, role, validity(s), now)
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		node, err := newNode(id, role, req)
		if err != nil {
			return err
		}
		tx.Write(store.Create(node))
		out = joinResponse{
			SwarmID: s.ID, NodeID: id, Role: role, Cert: cert, AdvertiseAddr: req.AdvertiseAddr,
			DataPathPort: uint16(s.DataPathPort), Managers: m.managers(), Clock: now,
		}
		if k, ok := store.Get[*cluster.UnlockKey](tx.Snapshot, cluster.SingletonID); ok && role == swarm.NodeRoleManager {
			out.UnlockKey, out.LockVersion = k.Bytes, k.Version.Index
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.log.Info("a node joined the swarm", "node", out.NodeID, "role", out.Role, "addr", out.AdvertiseAddr)
	return &out, nil
}

// roleOf says what the token makes of its holder.
func roleOf(s *cluster.Swarm, token string) (swarm.NodeRole, error) {
	switch {
	case pki.SecretEqual(token, s.JoinTokens.Manager):
		return swarm.NodeRoleManager, nil
	case pki.SecretEqual(token, s.JoinTokens.Worker):
		return swarm.NodeRoleWorker, nil
	}
	return "", errdefs.ErrInvalidArgument.WithMessage("A valid join token is necessary to join this cluster: the token is not, or no longer, one of this swarm's; " +
		"see 'swarm join-token' on a manager")
}

// newNode is the record of a new member.
func newNode(id string, role swarm.NodeRole, req *joinRequest) (*cluster.Node, error) {
	host, _, err := net.SplitHostPort(req.AdvertiseAddr)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("advertise address %q: %s", req.AdvertiseAddr, err))
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("advertise address must be a non-zero IP address: " + host)
	}
	n := &cluster.Node{DataPathAddr: req.DataPathAddr}
	if !n.DataPathAddr.IsValid() {
		n.DataPathAddr = addr.Unmap()
	}
	n.ID = id
	n.Spec = swarm.NodeSpec{Role: role, Availability: req.Availability}
	n.Spec.Labels = map[string]string{}
	if n.Spec.Availability == "" {
		n.Spec.Availability = swarm.NodeAvailabilityActive
	}
	n.Description, n.Level = req.Description, req.Level
	n.Status = swarm.NodeStatus{State: swarm.NodeStateUnknown, Addr: addr.Unmap().String()}
	if role == swarm.NodeRoleManager {
		n.ManagerStatus = &swarm.ManagerStatus{Addr: req.AdvertiseAddr}
	}
	return n, nil
}

// addVoter makes a manager that has its certificate a member of the consensus.
func (m *manager) addVoter(ctx context.Context, req voterRequest) error {
	return m.onLeader(ctx, func() error {
		node, ok := store.Get[*cluster.Node](m.store.Snapshot(), req.NodeID)
		if !ok || node.Spec.Role != swarm.NodeRoleManager {
			return errdefs.ErrPermissionDenied.WithMessage("node " + req.NodeID + " is not a manager of this swarm")
		}
		if err := m.cons.AddVoter(ctx, req.NodeID, req.Addr); err != nil {
			return err
		}
		return m.setManagerStatus(ctx, req.NodeID, &swarm.ManagerStatus{Addr: req.Addr})
	}, pathVoter, req, nil)
}

// read reads a JSON body, or answers why it cannot.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into)
	if err != nil {
		answer(w, nil, errdefs.ErrInvalidArgument.WithMessage("the request cannot be read: "+err.Error()))
	}
	return err == nil
}

// classes are the error classes that travel between nodes, as HTTP statuses.
var classes = []struct {
	status int
	class  interface {
		error
		WithMessage(string) error
	}
}{
	{http.StatusBadRequest, errdefs.ErrInvalidArgument},
	{http.StatusForbidden, errdefs.ErrPermissionDenied},
	{http.StatusNotFound, errdefs.ErrNotFound},
	{http.StatusConflict, errdefs.ErrConflict},
	{http.StatusServiceUnavailable, errdefs.ErrUnavailable},
}

func answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status = http.StatusInternalServerError
		for _, c := range classes {
			if errors.Is(err, c.class) {
				status = c.status
			}
		}
		if errors.Is(err, store.ErrNotLeader) {
			status, err = http.StatusServiceUnavailable, errdefs.ErrUnavailable.WithMessage(control.NoLeader)
		}
		v = errorBody{err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the peer is gone if this fails
}

// post asks a peer. Its refusal comes back as an error of the same class and text.
func post(ctx context.Context, c *http.Client, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://manager"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		var where *url.Error
		if errors.As(err, &where) {
			return where.Err // the URL says nothing: the connection chose the peer
		}
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var e errorBody
		if json.Unmarshal(data, &e) != nil || e.Message == "" {
			e.Message = fmt.Sprintf("the manager answered %s", resp.Status)
		}
		for _, c := range classes {
			if c.status == resp.StatusCode {
				return c.class.WithMessage(e.Message)
			}
		}
		return errors.New(e.Message)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}
