// Package authority decides when the rotation of the swarm's root is over.
//
// While one is under way, nodes get certificates of the new root one by one, over the links that they have (package node),
// and the cross-signed certificate makes them good for who trusts the old root. This planner only watches: when every
// member has one, the old root goes, and with it the old join tokens. It owns the end of the Authority record's Next
// and of what the Swarm record shows of it. It signs nothing.
package authority

import (
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

const (
	// Patience is how long a rotation waits for members that are not there: who comes back within a day is carried over,
	// who does not has to join again. Docker waits until such a node is removed, however long, and trusts the old root
	// until then.
	Patience = 24 * time.Hour
	// maxNamed is how many members are named of those that are waited for.
	maxNamed = 5
)

// key is the one thing to plan.
const key reconcile.Key = "authority"

// Planner plans the one authority.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "authority".
func (Planner) Name() string { return "authority" }

// Keys is the authority, where a rotation is under way and a member changed in what it waits for.
func (p Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindAuthority:
		return p.AllKeys(snap)
	case cluster.KindNode:
		if s := snap.Swarm(); s == nil || !s.RootRotationInProgress {
			return nil
		}
		old, _ := e.Old.(*cluster.Node)
		n, _ := e.New.(*cluster.Node)
		if old == nil || n == nil || old.Status.State != n.Status.State || old.Description.TLSInfo.TrustRoot != n.Description.TLSInfo.TrustRoot ||
			string(old.Description.TLSInfo.CertIssuerPublicKey) != string(n.Description.TLSInfo.CertIssuerPublicKey) {
			return []reconcile.Key{key}
		}
	}
	return nil
}

// AllKeys is the authority.
func (Planner) AllKeys(*store.Snapshot) []reconcile.Key { return []reconcile.Key{key} }

// Plan ends a rotation that every member has followed.
func (Planner) Plan(snap *store.Snapshot, _ reconcile.Key, env reconcile.Env) reconcile.Plan {
	s := snap.Swarm()
	a, ok := store.Get[*cluster.Authority](snap, cluster.SingletonID)
	if s == nil || !ok || a.Next == nil {
		return reconcile.Plan{}
	}
	late := !env.Now.Before(a.Next.Began.Add(Patience))
	var missing []string
	away := 0
	for n := range store.List[*cluster.Node](snap) {
		switch {
		case n.HasIssuer(s):
		case n.Status.State == swarm.NodeStateReady || !late:
			name := n.Description.Hostname
			if n.Status.State != swarm.NodeStateReady {
				name += " (" + string(n.Status.State) + ")"
			}
			missing = append(missing, name)
		default:
			away++
		}
	}
	if len(missing) > 0 {
		p := reconcile.Plan{Reasons: []string{waiting(missing)}}
		if !late {
			p.Again = a.Next.Began.Add(Patience)
		}
		return p
	}
	next, shown := a.Clone().(*cluster.Authority), s.Clone().(*cluster.Swarm)
	next.Finish(shown)
	return reconcile.Plan{Groups: []store.Group{{
		Why:     fmt.Sprintf("every member has a certificate of the new root (%d are away for too long)", away),
		Changes: []store.Change{store.PutSpec(next), store.PutBoth(shown)},
	}}}
}

func waiting(names []string) string {
	text := fmt.Sprintf("%d nodes have no certificate of the new root yet: ", len(names))
	if more := len(names) - maxNamed; more > 0 {
		return text + strings.Join(names[:maxNamed], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return text + strings.Join(names, ", ")
}
