package node

import "context"

// noteLog keeps in the state that this manager has entries of the swarm's log, once it has any. A log that is empty after
// that was lost or emptied. Without the note the manager would begin anew: it would have forgotten for whom it voted and
// what it confirmed, and the one that made the swarm would take itself for a swarm without a record.
func (m *member) noteLog(ctx context.Context, n *Node) error {
	w, _ := m.manager.store.Watch()
	defer w.Close()
	for {
		if m.manager.cons.Stats().LastIndex > 0 {
			err := m.saveHasLog()
			if err == nil {
				return nil
			}
			n.log.Warn("it is not noted yet that this manager has the swarm's log", "node", m.st.NodeID, "error", err)
		}
		select {
		case <-w.Ready():
			w.Take()
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *member) saveHasLog() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.st.HasLog {
		return nil
	}
	next := m.st
	next.HasLog = true
	if err := next.save(m.dir); err != nil {
		return err
	}
	m.st.HasLog = true
	return nil
}
