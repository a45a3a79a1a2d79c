package agent

import (
	"time"

	"shoal.dev/shoal/internal/dispatch/protocol"
)

// compareClock says when this node's clock begins or ceases to differ from the manager's, which answered a heartbeat
// somewhen between two times of this clock.
func (a *Agent) compareClock(sent, answered, manager time.Time) {
	if manager.IsZero() {
		return
	}
	ahead := sent.Add(answered.Sub(sent) / 2).Sub(manager)
	a.cfg.OnClock(ahead)
	offset := protocol.ClockOffset(ahead)
	if off := offset != 0; a.off.CompareAndSwap(!off, off) {
		if off {
			a.log.Warn("the clock of this node differs from the manager's: set both by NTP", "ahead", offset.Round(time.Second))
		} else {
			a.log.Info("the clock of this node is right again")
		}
	}
}
