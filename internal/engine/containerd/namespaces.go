package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/ledger"
)

// namespaces are the container's own, those of others that it joins, and not those that it shares with the host.
func (e *Engine) namespaces(c *ledger.Container) ([]specs.LinuxNamespace, error) {
	h := c.HostConfig
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	add := func(kind specs.LinuxNamespaceType, path string) {
		list = append(list, specs.LinuxNamespace{Type: kind, Path: path})
	}
	of := func(d *ledger.Container, kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", d.State.Pid, kind) }
	if !h.UTSMode.IsHost() {
		add(specs.UTSNamespace, "")
	}
	switch {
	case h.IpcMode.IsHost():
	case h.IpcMode.IsContainer():
		d, err := e.ledger.IPCDonor(c)
		if err != nil {
			return nil, err
		}
		add(specs.IPCNamespace, of(d, "ipc"))
	default:
		add(specs.IPCNamespace, "")
	}
	switch {
	case h.PidMode.IsHost():
	case h.PidMode.IsContainer():
		d, err := e.ledger.PIDDonor(c)
		if err != nil {
			return nil, err
		}
		add(specs.PIDNamespace, of(d, "pid"))
	default:
		add(specs.PIDNamespace, "")
	}
	switch {
	case h.NetworkMode.IsHost():
	case h.NetworkMode.IsContainer():
		d, err := e.ledger.NetworkDonor(c)
		if err != nil {
			return nil, err
		}
		add(specs.NetworkNamespace, of(d, "net"))
	default:
		add(specs.NetworkNamespace, c.State.Sandbox.NetNS)
	}
	if h.CgroupnsMode.IsPrivate() {
		add(specs.CgroupNamespace, "")
	}
	return list, nil
}

// adopt gives a container the name, and the files about names, of the one whose network it joins.
func (e *Engine) adopt(c *ledger.Container) error {
	d, err := e.ledger.NetworkDonor(c)
	if err != nil {
		return err
	}
	cfg := *c.Config
	cfg.Hostname, cfg.Domainname = d.Config.Hostname, d.Config.Domainname
	c.Config = &cfg
	return nil
}

// etcDir is where the container's /etc/hostname, /etc/hosts and /etc/resolv.conf are.
func (e *Engine) etcDir(c *ledger.Container) string {
	if m := c.HostConfig.NetworkMode; m.IsContainer() {
		if d, err := e.ledger.Find(m.ConnectedContainer()); err == nil {
			return d.Dir
		}
	}
	return c.Dir
}

// shmDir is where a container's shared memory is mounted on the host, if others may join it.
func (e *Engine) shmDir(id string) string { return filepath.Join(e.cfg.State, "shm", id) }

// shmSource is what a container's /dev/shm is a mount of; "" if it has one for itself.
func (e *Engine) shmSource(c *ledger.Container) (string, error) {
	m := c.HostConfig.IpcMode
	switch {
	case m.IsHost():
		return "/dev/shm", nil
	case m.IsShareable():
		return e.shmDir(c.ID), nil
	case m.IsContainer():
		d, err := e.ledger.IPCDonor(c)
		if err != nil {
			return "", err
		}
		return e.shmSource(d)
	}
	return "", nil
}

// mountShm mounts the shared memory of a container that others may join.
func (e *Engine) mountShm(c *ledger.Container) error {
	if !c.HostConfig.IpcMode.IsShareable() {
		return nil
	}
	if err := e.unmountShm(c.ID); err != nil { // a daemon that died left it
		return err
	}
	dir := e.shmDir(c.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	opts := fmt.Sprintf("mode=1777,size=%d", c.HostConfig.ShmSize)
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return errors.Join(fmt.Errorf("mounting shm tmpfs: %w", err), os.Remove(dir))
	}
	return nil
}

// unmountShm lets go of a container's shared memory; those who joined it keep it until they end.
func (e *Engine) unmountShm(id string) error {
	dir := e.shmDir(id)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the shared memory of container %s: %w", id, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (e *Engine) dropShm(c *ledger.Container) {
	if !c.HostConfig.IpcMode.IsShareable() {
		return
	}
	if err := e.unmountShm(c.ID); err != nil {
		e.cfg.Log.Warn("cannot unmount a container's shared memory", "container", c.ID, "error", err)
	}
}

// sweepShm unmounts the shared memory of containers that do not run.
func (e *Engine) sweepShm() error {
	list, err := os.ReadDir(filepath.Join(e.cfg.State, "shm"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range list {
		if c, ferr := e.ledger.Find(d.Name()); ferr != nil || !c.Running() {
			err = errors.Join(err, e.unmountShm(d.Name()))
		}
	}
	return err
}
