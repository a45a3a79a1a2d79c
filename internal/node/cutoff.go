package node

import (
	"sync"

	"github.com/containerd/errdefs"
)

// cutOff is what a manager knows of a cut of the swarm's history that left it out: another manager was made a swarm of its
// own (--force-new-cluster), and those that were lost may come back together and have a majority among themselves. The
// first that meets the new swarm is told so.
type cutOff struct {
	off  chan struct{} // closed once it is known
	once *sync.Once
	who  *successor // to be read when off is closed
}

// successor is the manager that said so.
type successor struct{ addr, reason string }

func newCutOff() cutOff {
	return cutOff{off: make(chan struct{}), once: &sync.Once{}, who: &successor{}}
}

// by is who said that the swarm goes on without this manager; nil while nobody has.
func (c *cutOff) by() *successor {
	select {
	case <-c.off:
		return c.who
	default:
		return nil
	}
}

// superseded is called when another manager refuses this one for its epoch. From then on this one plans nothing and takes
// no changes; see lookForSuccessor for how it ends.
func (m *manager) superseded(addr, reason string) {
	m.cut.once.Do(func() {
		m.cut.who.addr, m.cut.who.reason = addr, reason
		close(m.cut.off)
		m.log.Error("the swarm's history was cut and goes on without this manager, which takes no more changes and is to become a worker of it",
			"node", m.st.NodeID, "there", addr, "reason", reason)
	})
}

// mayChange refuses changes of a history that the swarm has left.
func (m *manager) mayChange() error {
	if s := m.cut.by(); s != nil {
		return errdefs.ErrUnavailable.WithMessage("this manager belongs to a past of the swarm: another manager was made a new swarm (--force-new-cluster), which goes on at " +
			s.addr + " without it. It becomes a worker there by itself; if it does not, let it leave (swarm leave --force) and join again")
	}
	return nil
}
