package dispatch

import (
	"time"

	"shoal.dev/shoal/internal/dispatch/protocol"
)

// compareClock notes how far a node's clock is ahead of this manager's, by its heartbeat, and says it when it begins or
// ceases to matter.
func (s *Server) compareClock(node string, clock time.Time) {
	if clock.IsZero() { // of a node that does not say
		return
	}
	offset := protocol.ClockOffset(time.Until(clock))
	if !s.setClockOffset(node, offset) {
		return
	}
	s.live.reportNow()
	if offset != 0 {
		s.log.Warn("a node's clock differs from this manager's: set both by NTP", "node", node, "ahead", offset.Round(time.Second))
	} else {
		s.log.Info("a node's clock is right again", "node", node)
	}
}

// setClockOffset says whether the offset began or ceased to matter; then what depends on it is planned.
func (s *Server) setClockOffset(node string, offset time.Duration) bool {
	s.live.mu.Lock()
	h := s.live.nodes[node]
	news := h != nil && (h.offset == 0) != (offset == 0)
	if h != nil {
		h.offset = offset
	}
	s.live.mu.Unlock()
	if news {
		s.cfg.Notify(node)
	}
	return news
}

// ClockOffset is how far the node's clock is ahead of the clock of the manager that hears it; 0 while it does not matter.
func (s *Server) ClockOffset(nodeID string) time.Duration {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if h := s.live.nodes[nodeID]; h != nil {
		return h.offset
	}
	return 0
}
