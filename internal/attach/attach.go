// Package attach puts plain containers, those that a user starts, on the swarm's networks.
//
// It decides when the swarm is asked for a place, how long a container waits for it, and when a place is given back. It
// stands between the engine and the host's network, and owns nothing that lasts: what the swarm holds for this node, the
// node's manager says, and what containers hold, the host's network does. A place that the swarm holds and no container
// does is given back; so nothing is lost by a restart, of the daemon or the host. It never gives an address.
package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network/local"
)

const (
	// patience is how long a container waits for its place; Docker's. A host that has just started may have to wait for
	// the swarm's managers to do so, too: within youth of its start it has patienceYoung.
	patience      = 20 * time.Second
	patienceYoung = 90 * time.Second
	youth         = 2 * time.Minute
	// askAgain is the time between two tries to ask the swarm, and lookAgain between two looks whether a network has come.
	askAgain  = 200 * time.Millisecond
	lookAgain = 10 * time.Millisecond
	// findTimeout bounds the question whether the swarm has a network.
	findTimeout = 5 * time.Second
	// grace is how long the place of a container that has ended is kept for it: one that is restarted keeps its address, and
	// needs no manager for that.
	grace = time.Second
	// returnTimeout bounds one try to give places back, and returnAgain is the time between two.
	returnTimeout = 2 * time.Second
	returnAgain   = 5 * time.Second
)

// ErrAway says that no manager can be reached, so that nothing was asked.
var ErrAway = errors.New("there is no connection to a manager")

// Swarm is the swarm as this node reaches it. Errors are NotFound, PermissionDenied and InvalidArgument where asking again
// is of no use; NotFound, without a swarm; [ErrAway] while nobody can be asked.
type Swarm interface {
	Find(ctx context.Context, network string) (*network.Inspect, error)
	Attach(ctx context.Context, r cluster.AttachRequest) (*cluster.Attachment, error)
	Detach(ctx context.Context, taskIDs []string) error
}

// Sandboxes is a host's network with the swarm's networks. It implements engine.Sandboxes; its methods are safe for
// concurrent use, and for one container the engine calls one at a time.
type Sandboxes struct {
	engine.Sandboxes
	log   *slog.Logger
	began time.Time
	wake  chan struct{} // capacity 1

	ready chan struct{} // closed once swarm is there
	mu    sync.Mutex    // guards what follows
	swarm Swarm
	known map[string]cluster.Attachment // what the swarm holds for this node, by the ID of its task
	fresh map[string]bool               // of those, what it has not told yet but answered
	busy  map[string]bool               // containers whose places are being changed
	left  map[string]bool               // attachments that the swarm was asked to take back: it may do so at any time
	idle  map[string]time.Time          // since when no container holds an attachment
}

// New returns the network of host with no swarm yet; see [Sandboxes.Begin].
func New(host engine.Sandboxes, log *slog.Logger) *Sandboxes {
	return &Sandboxes{
		Sandboxes: host, log: log, began: time.Now(), wake: make(chan struct{}, 1), ready: make(chan struct{}),
		known: map[string]cluster.Attachment{}, fresh: map[string]bool{}, busy: map[string]bool{}, left: map[string]bool{}, idle: map[string]time.Time{},
	}
}

// Begin says how the swarm is reached, once the node has taken up its membership. Until then containers wait.
func (s *Sandboxes) Begin(swarm Swarm) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swarm = swarm
	close(s.ready)
}

// Take says what the swarm holds for this node.
func (s *Sandboxes) Take(list []cluster.Attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.known {
		if !s.fresh[id] {
			delete(s.known, id)
		}
	}
	for _, a := range list {
		s.known[a.TaskID] = a
		delete(s.fresh, a.TaskID)
	}
	for id := range s.left {
		if _, ok := s.known[id]; !ok {
			delete(s.left, id)
		}
	}
	s.poke()
}

func (s *Sandboxes) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run gives back what no container holds until ctx ends.
func (s *Sandboxes) Run(ctx context.Context) error {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-s.wake:
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
		ids, soon := s.unused(time.Now())
		if err := s.giveBack(ctx, ids); err != nil && ctx.Err() == nil {
			s.log.Debug("attachments are not given back yet", "error", err)
		}
		if again.Reset(returnAgain); soon {
			again.Reset(grace)
		}
	}
}

// unused are the attachments that no container has held for a while, and whether there may soon be others.
func (s *Sandboxes) unused(now time.Time) (ids []string, soon bool) {
	on := map[string]map[string]network.EndpointResource{}
	for _, n := range s.LocalNetworks() {
		on[n.ID] = n.Containers
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := map[string]time.Time{}
	for id, a := range s.known {
		p, used := on[a.NetworkID][a.ContainerID]
		if s.busy[a.ContainerID] || used && p.IPv4Address.Addr() == a.Addr {
			continue
		}
		since, was := s.idle[id]
		if !was {
			since = now
		}
		if idle[id] = since; now.Sub(since) >= grace {
			ids = append(ids, id)
		} else {
			soon = true
		}
	}
	s.idle = idle
	return ids, soon
}

// others are the attachments of a container that are not its places.
func (s *Sandboxes) others(container string, places map[string]netip.Addr) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.known {
		if a.ContainerID == container && places[a.NetworkID] != a.Addr {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *Sandboxes) giveBack(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	s.mu.Lock()
	swarm := s.swarm
	for _, id := range ids {
		s.left[id] = true
	}
	s.mu.Unlock()
	if swarm == nil {
		return nil // it is tried again
	}
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	err := swarm.Detach(ctx, ids)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		switch {
		case err == nil:
			delete(s.known, id)
			delete(s.fresh, id)
		case errors.Is(err, ErrAway):
			delete(s.left, id)
		}
	}
	return err
}

// FindNetwork implements engine.LocalNetworks: it also finds networks of the swarm that are not on this host.
func (s *Sandboxes) FindNetwork(ref string) (*network.Inspect, error) {
	n, err := s.Sandboxes.FindNetwork(ref)
	if err == nil || !errdefs.IsNotFound(err) {
		return n, err
	}
	s.mu.Lock()
	swarm := s.swarm
	s.mu.Unlock()
	if swarm == nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), findTimeout)
	defer cancel()
	if n, ferr := swarm.Find(ctx, ref); ferr == nil {
		return n, nil
	}
	return nil, err
}

// Attach implements engine.Sandboxes.
func (s *Sandboxes) Attach(ctx context.Context, container string, a engine.Attachment) (engine.Sandbox, error) {
	if a.Task != "" || a.Networks == nil {
		return s.Sandboxes.Attach(ctx, container, a)
	}
	s.setBusy(container, true)
	defer s.setBusy(container, false)
	wait := patience
	if time.Since(s.began) < youth {
		wait = patienceYoung
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	had := a.Networks
	a.Networks = slices.Clone(had)
	places := map[string]netip.Addr{} // by network
	for i, r := range had {
		n, err := s.Sandboxes.FindNetwork(r.Network)
		if err == nil && n.Scope != "swarm" {
			continue
		}
		id, addr := "", netip.Addr{}
		if err == nil {
			id, addr = n.ID, n.Containers[container].IPv4Address.Addr()
		}
		if !addr.IsValid() || r.Addr.IsValid() && r.Addr != addr { // else it is there
			at, err := s.place(waiting, container, a.Name, id, r)
			if err != nil {
				return engine.Sandbox{}, err
			}
			id, addr = at.NetworkID, at.Addr
		}
		a.Networks[i].Network, a.Networks[i].Addr, places[id] = id, addr, addr
	}
	sandbox, err := s.settle(ctx, waiting, container, a, places)
	if err != nil {
		return sandbox, err
	}
	if err := s.giveBack(ctx, s.others(container, places)); err != nil {
		s.log.Debug("a container's last place is not given back yet", "container", container, "error", err)
	}
	return sandbox, nil
}

func (s *Sandboxes) setBusy(id string, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if busy {
		s.busy[id] = true
		return
	}
	delete(s.busy, id)
	s.poke()
}

// place is the container's on a network of the swarm: the one that it had, or a new one. networkID is "" if the network is
// not on this host yet.
func (s *Sandboxes) place(ctx context.Context, container, name, networkID string, r engine.EndpointRequest) (*cluster.Attachment, error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, errLate(ctx)
	}
	ask := cluster.AttachRequest{TaskID: cluster.NewID(), ContainerID: container, Network: cmp.Or(networkID, r.Network), Addr: r.Addr, Names: r.Names}
	if len(ask.Names) == 0 {
		ask.Names = []string{name}
	}
	had, ok := s.had(container, networkID, r.Addr, &ask)
	if ok {
		return had, nil
	}
	s.mu.Lock()
	swarm := s.swarm
	s.mu.Unlock()
	for {
		at, err := swarm.Attach(ctx, ask)
		switch {
		case err == nil:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.known[at.TaskID], s.fresh[at.TaskID] = *at, true
			return at, nil
		case errdefs.IsNotFound(err):
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("network %s not found", r.Network))
		case errdefs.IsPermissionDenied(err):
			return nil, refused(r.Network, "rpc error: code = PermissionDenied desc = network "+r.Network+" not manually attachable")
		case errdefs.IsInvalidArgument(err):
			return nil, refused(r.Network, err.Error())
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return nil, refused(r.Network, fmt.Sprintf("%s: %s", errLate(ctx), err))
		}
	}
}

// had is the place that the swarm keeps for the container, if that is what is asked for and nobody has been asked to take
// it back.
func (s *Sandboxes) had(container, networkID string, addr netip.Addr, ask *cluster.AttachRequest) (*cluster.Attachment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.known {
		switch {
		case a.ContainerID != container:
		case s.left[a.TaskID]:
			ask.Anew = true
		case a.NetworkID == networkID && (!addr.IsValid() || addr == a.Addr):
			return &a, true
		}
	}
	return nil, false
}

// settle attaches the container as soon as its networks are on this host.
func (s *Sandboxes) settle(ctx, waiting context.Context, container string, a engine.Attachment, places map[string]netip.Addr) (engine.Sandbox, error) {
	for {
		late := false
		for n := range places {
			if _, err := s.Sandboxes.FindNetwork(n); errdefs.IsNotFound(err) {
				late = true
			}
		}
		if !late {
			with := a
			with.Networks = s.withWayOut(a.Networks)
			sandbox, err := s.Sandboxes.Attach(ctx, container, with)
			if err == nil || len(places) == 0 || !errdefs.IsUnavailable(err) || !s.begun() {
				return sandbox, err
			}
		}
		select {
		case <-time.After(lookAgain):
		case <-waiting.Done():
			return engine.Sandbox{}, errLate(waiting)
		}
	}
}

// begun says whether the node has taken up its membership. Before that, what runs is only taken over, and nothing comes that
// would be worth waiting for.
func (s *Sandboxes) begun() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// withWayOut adds the network bridge where a container has no other way out: an overlay network leads to its containers
// only. In Docker that is docker_gwbridge.
func (s *Sandboxes) withWayOut(list []engine.EndpointRequest) []engine.EndpointRequest {
	wants := false
	for _, r := range list {
		n, err := s.Sandboxes.FindNetwork(r.Network)
		switch {
		case err != nil || n.Internal:
		case n.Scope != "swarm":
			return list
		default:
			wants = true
		}
	}
	if !wants {
		return list
	}
	return append(slices.Clone(list), engine.EndpointRequest{Network: local.Bridge})
}

// Detach implements engine.Sandboxes.
func (s *Sandboxes) Detach(ctx context.Context, id string) error {
	s.setBusy(id, true)
	defer s.setBusy(id, false) // Run looks then
	return s.Sandboxes.Detach(ctx, id)
}

// refused says why a container is not on a network.
func refused(network, why string) error {
	//lint:ignore ST1005 Docker's words
	return fmt.Errorf("Could not attach to network %s: %s", network, why)
}

// errLate is Docker's word for a place that did not come in time, or that the caller did not wait.
func errLate(ctx context.Context) error {
	return fmt.Errorf("attaching to network failed, make sure your network options are correct and check manager logs: %w", ctx.Err())
}
