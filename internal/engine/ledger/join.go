package ledger

import (
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// WithDonors is h with the containers whose namespaces it joins named by their IDs, so that a rename does not part
// them. As in Docker, those of processes and of IPC must be there now, that of the network when the container starts.
func (l *Ledger) WithDonors(h *container.HostConfig) (*container.HostConfig, error) {
	n := *h
	if n.PidMode.IsContainer() {
		c, err := l.Find(n.PidMode.Container())
		if err != nil {
			return nil, err
		}
		n.PidMode = container.PidMode("container:" + c.ID)
	}
	if n.IpcMode.IsContainer() {
		c, err := l.Find(n.IpcMode.Container())
		if err != nil {
			return nil, err
		}
		n.IpcMode = container.IpcMode("container:" + c.ID)
	}
	if n.NetworkMode.IsContainer() {
		if c, err := l.Find(n.NetworkMode.ConnectedContainer()); err == nil {
			n.NetworkMode = container.NetworkMode("container:" + c.ID)
		}
	}
	return &n, nil
}

// Donors are the IDs of the containers whose namespaces c joins.
func Donors(c *Container) []string {
	var list []string
	if m := c.HostConfig.PidMode; m.IsContainer() {
		list = append(list, m.Container())
	}
	if m := c.HostConfig.IpcMode; m.IsContainer() {
		list = append(list, m.Container())
	}
	if m := c.HostConfig.NetworkMode; m.IsContainer() {
		list = append(list, m.ConnectedContainer())
	}
	return list
}

// CanJoin says why c cannot have the namespaces of others that it is to join now.
func (l *Ledger) CanJoin(c *Container) error {
	for _, x := range []struct {
		joins bool
		donor func(*Container) (*Container, error)
	}{
		{c.HostConfig.NetworkMode.IsContainer(), l.NetworkDonor},
		{c.HostConfig.IpcMode.IsContainer(), l.IPCDonor},
		{c.HostConfig.PidMode.IsContainer(), l.PIDDonor},
	} {
		if x.joins {
			if _, err := x.donor(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// NetworkDonor is the running container whose network c joins.
func (l *Ledger) NetworkDonor(c *Container) (*Container, error) {
	name := c.HostConfig.NetworkMode.ConnectedContainer()
	d, err := l.Find(name)
	switch {
	case err != nil: // not NotFound: what is started is there
		return nil, Errorf(errdefs.ErrInternal, "joining network namespace of container: %s", err)
	case d.ID == c.ID:
		return nil, Errorf(errdefs.ErrInternal, "cannot join own network namespace")
	case d.State.Status == container.StateRestarting:
		return nil, Errorf(errdefs.ErrConflict, "cannot join network namespace of container: Container %s is restarting, wait until the container is running", name)
	case !d.Running():
		return nil, Errorf(errdefs.ErrConflict, "cannot join network namespace of a non running container: container %s is %s", d.Name, d.State.Status)
	}
	return d, nil
}

// PIDDonor is the running container whose processes c sees.
func (l *Ledger) PIDDonor(c *Container) (*Container, error) {
	return l.donor(c.HostConfig.PidMode.Container(), "failed to join PID namespace")
}

// IPCDonor is the running container whose IPC namespace and shared memory c uses. It must offer them.
func (l *Ledger) IPCDonor(c *Container) (*Container, error) {
	const what = "failed to join IPC namespace"
	name := c.HostConfig.IpcMode.Container()
	d, err := l.donor(name, what)
	if err != nil {
		return nil, err
	}
	if m := d.HostConfig.IpcMode; !m.IsShareable() && !m.IsHost() && !m.IsContainer() {
		return nil, Errorf(errdefs.ErrInvalidArgument,
			"%s: container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", what, name)
	}
	return d, nil
}

func (l *Ledger) donor(name, what string) (*Container, error) {
	d, err := l.Find(name)
	if err != nil {
		return nil, Errorf(errdefs.ErrInvalidArgument, "%s: %s", what, err)
	}
	if err := NotRunning(d); err != nil {
		return nil, Errorf(errdefs.ErrConflict, "%s: %s", what, err)
	}
	return d, nil
}
