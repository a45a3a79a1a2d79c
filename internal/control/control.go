// Package control is what a manager does for a user: every verb on services, tasks, nodes, networks and the swarm's
// settings, with Docker's defaults, checks and words.
//
// It decides whether a request is allowed and what it writes; it plans nothing, and starts and stops nothing: the
// planners act on what it wrote. It owns the specification part of Service and Swarm records, the user's part of Node
// records, and the claims on names and on ports that a user chose. It never talks to another node; reads are as fresh
// as [Manager.ReadBarrier] makes them, and writes are made on the leader, to which the daemon forwards them.
package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// Manager is what a node that is a manager gives to [Control.Activate].
type Manager struct {
	NodeID string
	Store  *store.Store
	// ReadBarrier waits until the store has every write that was acknowledged before the call, by any manager. While
	// the swarm has no leader it fails with [ErrStale].
	ReadBarrier func(ctx context.Context) error
	// Leader is the ID of the leading node, "" if none is known.
	Leader func() string
	// MayDemote says why the swarm cannot do without the manager; it is asked on the leader.
	MayDemote func(nodeID string) error
}

// Distribution asks a registry for an image's digest. The engine implements it.
type Distribution interface {
	Distribution(ctx context.Context, ref string, auth *registry.AuthConfig) (*registry.DistributionInspect, error)
}

// Docker's words for a node that cannot answer for the swarm.
const (
	NotInSwarm = `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`
	NotManager = `This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.`
	Locked     = `Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.`
	NoLeader   = `The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.`
)

// Control answers for the swarm while this node is a manager, and otherwise says why it cannot. It is safe for
// concurrent use.
type Control struct {
	images Distribution
	m      atomic.Pointer[Manager]
	why    atomic.Pointer[string] // why there is no manager
}

// New returns a Control that is not active.
func New(images Distribution) *Control {
	c := &Control{images: images}
	c.Deactivate(NotInSwarm)
	return c
}

// Activate makes c answer for the swarm.
func (c *Control) Activate(m *Manager) { c.m.Store(m) }

// Deactivate makes every method fail with the text.
func (c *Control) Deactivate(why string) {
	c.why.Store(&why)
	c.m.Store(nil)
}

// write returns the manager for a change.
func (c *Control) write() (*Manager, error) {
	if m := c.m.Load(); m != nil {
		return m, nil
	}
	return nil, errdefs.ErrUnavailable.WithMessage(*c.why.Load())
}

// read returns the manager and a snapshot with every acknowledged write.
func (c *Control) read(ctx context.Context) (*Manager, *store.Snapshot, error) {
	m, err := c.write()
	if err != nil {
		return nil, nil, err
	}
	if err := m.ReadBarrier(ctx); err != nil {
		mark, _ := ctx.Value(staleKey{}).(*atomic.Bool)
		if !errors.Is(err, ErrStale) || mark == nil || m.Store.Snapshot().Swarm() == nil {
			return nil, nil, err
		}
		mark.Store(true)
	}
	return m, m.Store.Snapshot(), nil
}

// Snapshot returns all records of the swarm, with every acknowledged write.
func (c *Control) Snapshot(ctx context.Context) (*store.Snapshot, error) {
	_, snap, err := c.read(ctx)
	return snap, err
}

// ErrStale is the class of errors of a read barrier that only a lost quorum keeps from passing: what this manager knows
// may be old, but nobody knows better.
var ErrStale = errors.New("the swarm has no leader")

type staleKey struct{}

// AllowStale returns a context with which reads are answered from this manager's own replica while the swarm has no
// leader. The mark is set if that happened.
func AllowStale(ctx context.Context, mark *atomic.Bool) context.Context {
	return context.WithValue(ctx, staleKey{}, mark)
}

// updateTimeout bounds a write. An election takes a few seconds; a caller with a shorter deadline keeps it.
const updateTimeout = 20 * time.Second

// update runs fn as [store.Store.Update] does, in the words of the API. What fn refuses it is asked again on a replica
// with every acknowledged write: a leader that has just begun, or that does not know yet that it leads no more, would
// say that there is nothing where another manager has confirmed something.
func (m *Manager) update(ctx context.Context, fn func(*store.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	refused := false
	_, err := m.Store.Update(ctx, func(tx *store.Tx) error {
		err := fn(tx)
		refused = err != nil
		return err
	})
	if refused {
		if err := m.ReadBarrier(ctx); err != nil {
			return err
		}
		_, err = m.Store.Update(ctx, fn)
	}
	switch {
	case errors.Is(err, store.ErrNotLeader):
		return errdefs.ErrUnavailable.WithMessage(NoLeader)
	case errors.Is(err, context.DeadlineExceeded):
		return errdefs.ErrUnavailable.WithMessage("the swarm did not confirm the change in time; it may still be made: " + NoLeader)
	}
	return err
}

func notFound(kind, name string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s not found", kind, name))
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func outOfSequence() error { return errdefs.ErrUnknown.WithMessage("update out of sequence") }

// find looks a record up as Docker does: by ID, by name, by a prefix of the ID that only one has.
func find[T cluster.Object](s *store.Snapshot, kind, ref string, name func(T) string) (T, error) {
	var zero T
	if o, ok := store.Get[T](s, ref); ok {
		return o, nil
	}
	if ref == "" {
		return zero, notFound(kind, `""`)
	}
	var named, prefixed []T
	for o := range store.List[T](s) {
		if name(o) == ref {
			named = append(named, o)
		}
		if strings.HasPrefix(o.Key(), ref) {
			prefixed = append(prefixed, o)
		}
	}
	for _, found := range [][]T{named, prefixed} {
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return zero, invalid("%s %s is ambiguous (%d matches found)", kind, ref, len(found))
		}
	}
	return zero, notFound(kind, ref)
}

func serviceName(s *cluster.Service) string { return s.Spec.Name }
func nodeName(n *cluster.Node) string       { return n.Description.Hostname }
func taskName(t *cluster.Task) string       { return t.Name() + "." + t.ID }

// filters are Docker's: alternatives within a key, all keys must hold.
type filters map[string][]string

// known refuses keys that are not in the list.
func (f filters) known(keys ...string) error {
	for k := range f {
		if !slices.Contains(keys, k) {
			return invalid("invalid filter '%s'", k)
		}
	}
	return nil
}

// any says whether one of the key's values satisfies ok, or there is none.
func (f filters) any(key string, ok func(v string) bool) bool {
	return len(f[key]) == 0 || slices.ContainsFunc(f[key], ok)
}

// labels says whether all of the key's values, "name" or "name=value", hold for the labels.
func (f filters) labels(key string, labels map[string]string) bool {
	for _, want := range f[key] {
		name, value, _ := strings.Cut(want, "=")
		have, ok := labels[name]
		if !ok || value != "" && have != value { // as in Docker, "name=" asks for any value
			return false
		}
	}
	return true
}

func prefixOf(s string) func(string) bool {
	return func(v string) bool { return strings.HasPrefix(s, v) }
}

// inspectSwarm is the swarm as the API shows it.
func inspectSwarm(s *cluster.Swarm) *swarm.Swarm {
	out := s.Clone().(*cluster.Swarm).Swarm
	out.Spec.CAConfig.SigningCAKey = ""
	return &out
}
