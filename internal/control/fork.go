package control

import "context"

// Fork returns a Control on a copy of the swarm's records as they are now, with every acknowledged write: what is asked
// of it is checked and written as here, and changes nothing here.
func (c *Control) Fork(ctx context.Context) (*Control, error) {
	m, _, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	f := New(c.images)
	f.Activate(&Manager{
		NodeID: m.NodeID, Store: m.Store.Fork(), ReadBarrier: func(context.Context) error { return nil },
		Leader: m.Leader, MayDemote: m.MayDemote,
	})
	return f, nil
}
