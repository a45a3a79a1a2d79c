package liveness

import (
	"fmt"
	"strings"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
)

const clockMessage = "the node's clock is "

// clock is what is to be said of a node's clock. What was said stays until it is right again, so that a clock that drifts
// makes no writes.
func clock(n *cluster.Node, o reconcile.Observed) string {
	clocks, ok := o.(reconcile.Clocks)
	if !ok {
		return ""
	}
	off := clocks.ClockOffset(n.ID)
	switch {
	case off == 0:
		return ""
	case strings.HasPrefix(n.Status.Message, clockMessage):
		return n.Status.Message
	case off > 0:
		return fmt.Sprintf("%s%s ahead of the managers': set them by NTP", clockMessage, off.Round(time.Second))
	}
	return fmt.Sprintf("%s%s behind the managers': set them by NTP", clockMessage, (-off).Round(time.Second))
}
