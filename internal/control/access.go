package control

import (
	"fmt"
	"reflect"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// checkAccess refuses a service that asks for more of its nodes than Docker gives a service, unless the swarm allows it.
// One that had it already may keep it, so that it can be scaled down or changed after the swarm has changed its mind:
// new tasks of it wait. old is nil for a new service.
func checkAccess(snap *store.Snapshot, s, old *cluster.Service) error {
	want, err := cluster.ParseAccess(s.Spec.Labels)
	if err != nil || want == nil || cluster.AllowsAccess(snap.Swarm()) {
		return err
	}
	if old != nil && reflect.DeepEqual(want, cluster.AccessOf(old)) {
		return nil
	}
	what, label := "devices of its nodes", cluster.LabelDevices
	if want.Privileged {
		what, label = "privileged containers", cluster.LabelPrivileged
	}
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
		"service %s asks for %s (label %s), which this swarm does not allow: its setting %s is off. \"shoal swarm update --allow-privileged\" turns it on; whoever may create services then has the nodes' root",
		s.Spec.Name, what, label, cluster.LabelAllowPrivileged))
}
