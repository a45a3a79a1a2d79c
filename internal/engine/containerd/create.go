package containerd

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
	"shoal.dev/shoal/internal/engine/volume"
)

// Create implements engine.Containers.
func (e *Engine) Create(ctx context.Context, s engine.Spec) (_ string, warnings []string, err error) {
	ctx = e.scope(ctx)
	if s.Config == nil {
		return "", nil, ledger.Errorf(errdefs.ErrInvalidArgument, "config cannot be empty in order to create a container")
	}
	if s.HostConfig == nil {
		s.HostConfig = &container.HostConfig{}
	}
	if s.HostConfig, err = e.ledger.WithDonors(s.HostConfig); err != nil { // a copy, which is ours to change
		return "", nil, err
	}
	s.HostConfig.LogConfig = e.mergedLog(s.HostConfig.LogConfig)
	if err := e.check(s.Config, s.HostConfig); err != nil {
		return "", nil, err
	}
	if warnings, err = e.host.limits.fit(&s.HostConfig.Resources, false); err != nil {
		return "", nil, err
	}
	if err := ledger.CheckFiles(s.Files); err != nil {
		return "", nil, err
	}
	img, info, done, err := e.useImage(ctx, s.Config.Image, s.Platform)
	if err != nil {
		return "", nil, err
	}
	defer done()
	if host := platforms.DefaultSpec(); s.Platform == "" && info.platform.OS != "" && !platforms.Default().Match(info.platform) {
		warnings = append(warnings, fmt.Sprintf("The requested image's platform (%s) does not match the detected host platform (%s) and no specific platform was requested",
			platforms.FormatAll(info.platform), platforms.FormatAll(host)))
	}
	cfg, err := ledger.Merged(s.Config, info.config)
	if err != nil {
		return "", nil, err
	}
	networks, err := ledger.Networks(s.HostConfig, s.Networks, e.findNetwork)
	if err != nil {
		return "", nil, err
	}
	id := ledger.NewID()
	mounts, err := e.planMounts(cfg, s.HostConfig)
	if err != nil {
		return "", nil, err
	}
	name, err := e.ledger.Reserve(s.Name, id)
	if err != nil {
		return "", nil, err
	}
	if cfg.Hostname == "" {
		if cfg.Hostname = id[:12]; s.HostConfig.NetworkMode.IsHost() || s.HostConfig.UTSMode.IsHost() {
			cfg.Hostname = e.host.hostname
		}
	}
	points, err := e.volumes.Claim(ctx, id, mounts)
	if err != nil {
		e.ledger.Release(name, id)
		return "", nil, err
	}
	c := &ledger.Container{
		ID: id, Name: name, Created: time.Now().UTC(), Config: cfg, HostConfig: e.completed(s.HostConfig),
		ImageID: img.Target.Digest.String(), Manifest: &info.desc, Ingress: s.Ingress, Networks: networks, Mounts: points, Subpaths: volume.Subpaths(mounts), Dir: e.cfg.containerDir(id),
		Files: engine.Targets(s.Files),
		State: ledger.State{Status: container.StateCreated},
	}
	undo := func() {
		// The context may be what ended the creation; the traces must go all the same.
		_ = e.containers.Delete(context.WithoutCancel(ctx), id)
		_ = os.RemoveAll(c.Dir)
		e.dropFiles(c)
		e.releaseVolumes(ctx, c, true)
		e.ledger.Release(name, id)
	}
	if err := os.Mkdir(c.Dir, 0o710); err != nil {
		undo()
		return "", nil, err
	}
	// The record first: it is what keeps containerd's collector from the snapshot, and so spares a lease.
	if err := e.insert(ctx, c, img.Name); err != nil {
		undo()
		return "", nil, fmt.Errorf("create container: %w", err)
	}
	if err := e.prepare(ctx, id, img, info); err != nil {
		undo()
		return "", nil, err
	}
	if err := e.populate(ctx, c, mounts); err != nil {
		undo()
		return "", nil, err
	}
	if err := e.placeFiles(c, s.Files); err != nil {
		undo()
		return "", nil, err
	}
	e.ledger.Add(c, "create")
	return id, append(warnings, e.warnings(c.HostConfig)...), nil
}

// warnings says what of the settings this host cannot do, as Docker does.
func (e *Engine) warnings(h *container.HostConfig) []string {
	list := []string{}
	if h.NetworkMode.IsHost() && (len(h.PortBindings) > 0 || h.PublishAllPorts) {
		list = append(list, "Published ports are discarded when using host network mode")
	}
	return list
}

// completed fills the settings that Docker fills, so that `inspect` shows what holds.
func (e *Engine) completed(h *container.HostConfig) *container.HostConfig {
	n := *h
	if n.NetworkMode == "" || n.NetworkMode == "default" {
		n.NetworkMode = "bridge"
	}
	if n.RestartPolicy.Name == "" {
		n.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if n.Memory > 0 && n.MemorySwap == 0 {
		n.MemorySwap = doubled(n.Memory)
	}
	if n.OomKillDisable == nil && e.host.limits.oomKillDisable {
		n.OomKillDisable = new(bool)
	}
	if n.ShmSize == 0 {
		n.ShmSize = defaultShmSize
	}
	if n.Runtime == "" {
		n.Runtime = "runc"
	}
	if n.IpcMode == "" {
		n.IpcMode = container.IPCModePrivate
	}
	if n.CgroupnsMode == "" {
		if n.CgroupnsMode = container.CgroupnsModeHost; e.host.cgroup2 && !n.Privileged {
			n.CgroupnsMode = container.CgroupnsModePrivate
		}
	}
	if n.MaskedPaths == nil && !n.Privileged {
		n.MaskedPaths = maskedPaths()
	}
	if n.ReadonlyPaths == nil && !n.Privileged {
		n.ReadonlyPaths = readonlyPaths()
	}
	return &n
}

// check refuses what Docker refuses and what is not there yet. Every setting that means something is looked at here
// or made so in spec.go; limits have their own place.
func (e *Engine) check(c *container.Config, h *container.HostConfig) error {
	if err := ledger.CheckOptions(c, h); err != nil {
		return err
	}
	if err := container.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "%s", err)
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "can't create 'AutoRemove' container with restart policy")
	}
	missing := []struct {
		is   bool
		what string
	}{
		{len(h.Links) > 0 && !h.NetworkMode.IsUserDefined(), "links on the network bridge"},
		{len(h.DeviceRequests) > 0, "device requests"},
		{h.Cgroup != "", "another container's cgroup"},
	}
	for _, m := range missing {
		if m.is {
			return notYet(m.what)
		}
	}
	if _, err := ledger.PortRequests(nil, h); err != nil {
		return err
	}
	switch m := h.NetworkMode; {
	case m.IsHost(), m.IsNone(), m.IsContainer():
	case e.cfg.Sandboxes == nil:
		return notYet("networks on a host without Shoal's network")
	}
	return e.checkValues(c, h)
}

func notYet(what string) error {
	return ledger.Errorf(errdefs.ErrNotImplemented, "not implemented yet: %s", what)
}

// checkValues refuses values that Docker refuses.
func (e *Engine) checkValues(c *container.Config, h *container.HostConfig) error {
	bad := func(format string, args ...any) error {
		return ledger.Errorf(errdefs.ErrInvalidArgument, format, args...)
	}
	if c.WorkingDir != "" && c.WorkingDir[0] != '/' {
		return bad("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
	}
	for _, kv := range c.Env {
		if kv == "" || kv[0] == '=' {
			return bad("invalid environment variable: %s", kv)
		}
	}
	if c.StopSignal != "" {
		if _, err := ledger.ParseSignal(c.StopSignal); err != nil {
			return err
		}
	}
	if err := checkLog(h.LogConfig); err != nil {
		return err
	}
	switch h.Runtime {
	case "", "runc", "io.containerd.runc.v2":
	default:
		return bad("unknown or invalid runtime name: %s", h.Runtime)
	}
	if e.cfg.SystemdCgroup && h.CgroupParent != "" && (len(h.CgroupParent) <= len(".slice") || !strings.HasSuffix(h.CgroupParent, ".slice")) {
		return bad("cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"")
	}
	if _, err := capabilities(h); err != nil {
		return err
	}
	if err := checkDevices(h); err != nil {
		return err
	}
	_, err := e.securityOptions(h)
	return err
}
