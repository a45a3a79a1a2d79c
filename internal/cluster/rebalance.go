package cluster

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
)

// LabelRebalance is the label of a service that says when its tasks move to nodes with fewer of them: RebalanceAuto, or
// when `service rebalance` asks for it.
const (
	LabelRebalance = "shoal.rebalance"
	RebalanceAuto  = "auto"
	// RebalanceManual is what a service without the label has.
	RebalanceManual = "manual"
)

// Rebalances says whether tasks of the service are to move now if that improves their spread.
func (s *Service) Rebalances() bool {
	return s.Spec.Mode.Replicated != nil && (s.Rebalancing || s.Spec.Labels[LabelRebalance] == RebalanceAuto)
}

// validateRebalance refuses a policy that nobody knows.
func validateRebalance(s *swarm.ServiceSpec) error {
	v, ok := s.Labels[LabelRebalance]
	switch {
	case !ok, v == RebalanceManual:
		return nil
	case v != RebalanceAuto:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid value %q of label %s: must be %s or %s", v, LabelRebalance, RebalanceAuto, RebalanceManual))
	case s.Mode.Global != nil, s.Mode.GlobalJob != nil, s.Mode.ReplicatedJob != nil:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("label %s=%s can only be used with replicated mode", LabelRebalance, RebalanceAuto))
	}
	return nil
}
