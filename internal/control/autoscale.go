package control

import (
	"fmt"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// showReplicas puts the number of replicas that the service has in the place of the one that a user asked for: what is
// read and sent back with another change leaves it as it is.
func showReplicas(s *swarm.Service, of *cluster.Service) {
	if m := s.Spec.Mode.Replicated; m != nil && cluster.Autoscales(&of.Spec) {
		n := of.Replicas()
		s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &n}
	}
}

// rescale takes a user's number of replicas over into a service that the swarm scales: one that is not what the service
// has is where it goes on from. It returns a warning if the bounds do not allow that number.
func rescale(s, old *cluster.Service, now time.Time) (warning string) {
	a, err := cluster.AutoscaleOf(&s.Spec)
	if err != nil || a == nil || s.Spec.Mode.Replicated == nil {
		s.Scale = nil
		return ""
	}
	asked := *s.Spec.Mode.Replicated.Replicas
	switch {
	case asked == 0:
		s.Scale = nil // until somebody scales it up
		return ""
	case asked == old.Replicas():
		return ""
	}
	n := min(max(asked, a.Min), a.Max)
	if s.Scale == nil {
		s.Scale = &cluster.ScaleStatus{Replicas: old.Replicas()}
	}
	s.Scale.Want(n, now, max(a.UpWindow, a.DownWindow))
	s.Scale.Decide(n, now, "scaled by hand")
	if n != asked {
		return fmt.Sprintf("replicas %d is not from %d (label %s) to %d (label %s): the service has %d", asked, a.Min, cluster.LabelScaleMin, a.Max, cluster.LabelScaleMax, n)
	}
	return ""
}

// ServiceScale is how a service is scaled by its usage.
type ServiceScale struct {
	ServiceID, ServiceName string
	Min, Max               uint64
	CPU, Memory            float64 `json:",omitempty"` // targets, in percent
	Connections            float64 `json:",omitempty"` // a target, new ones a second and task
	UpWindow, DownWindow   string
	Tolerance              float64
	Replicas               uint64
	// Wanted is what usage asked for last, Why what says the leader of it now.
	Wanted    uint64
	Why       string `json:",omitempty"`
	ChangedAt time.Time
	Decisions []cluster.ScaleDecision // the last ones, oldest first
}

// ScaleOf returns how a service is scaled; InvalidArgument if it is scaled by hand.
func ScaleOf(s *cluster.Service) (*ServiceScale, error) {
	a, err := cluster.AutoscaleOf(&s.Spec)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, invalid("service %s is scaled by hand (it has no label %s)", s.Spec.Name, cluster.LabelScaleMax)
	}
	out := &ServiceScale{
		ServiceID: s.ID, ServiceName: s.Spec.Name, Min: a.Min, Max: a.Max, CPU: a.CPU, Memory: a.Memory, Connections: a.Connections, UpWindow: a.UpWindow.String(),
		DownWindow: a.DownWindow.String(), Tolerance: a.Tolerance, Replicas: s.Replicas(), Decisions: []cluster.ScaleDecision{},
	}
	if st := s.Scale; st != nil {
		out.ChangedAt = st.ChangedAt
		out.Decisions = append(out.Decisions, st.Decisions...)
		if n := len(st.Wanted); n > 0 {
			out.Wanted = st.Wanted[n-1].Replicas
		}
	}
	return out, nil
}
