package agent

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
)

// Docker's labels of a task's container.
const (
	labelTask        = "com.docker.swarm.task"
	labelTaskID      = "com.docker.swarm.task.id"
	labelTaskName    = "com.docker.swarm.task.name"
	labelServiceID   = "com.docker.swarm.service.id"
	labelServiceName = "com.docker.swarm.service.name"
	labelNodeID      = "com.docker.swarm.node.id"
)

// defaultGrace is Docker's time between the stop signal and SIGKILL.
const defaultGrace = 10 * time.Second

// taskName is Docker's name of a task: service.slot.id, or service.node.id for a task of a global service.
func taskName(t *cluster.Task) string {
	return t.Name() + "." + t.ID
}

// grace is how long the task's container has to stop.
func grace(t *cluster.Task) time.Duration {
	if c := t.Spec.ContainerSpec; c != nil && c.StopGracePeriod != nil {
		return *c.StopGracePeriod
	}
	return defaultGrace
}

// containerSpec is the container of a task on the node. The error of a task that this version cannot run is for its
// user.
func containerSpec(t *cluster.Task, nodeID string) (engine.Spec, error) {
	c := t.Spec.ContainerSpec
	if c == nil {
		return engine.Spec{}, errdefs.ErrNotImplemented.WithMessage("the task has no container; plugins and network attachments as tasks are not there yet")
	}
	host, err := hostConfig(t, c)
	if err != nil {
		return engine.Spec{}, err
	}
	exposed, bindings, err := hostPorts(t)
	if err != nil {
		return engine.Spec{}, err
	}
	host.PortBindings = bindings
	return engine.Spec{
		Name: taskName(t),
		Config: &container.Config{
			Hostname:    c.Hostname,
			User:        c.User,
			Tty:         c.TTY,
			OpenStdin:   c.OpenStdin,
			Env:         append(slices.Clone(c.Env), genericEnv(t.GenericResources)...),
			Entrypoint:  c.Command,
			Cmd:         c.Args,
			Healthcheck: c.Healthcheck,
			Image:       c.Image,
			WorkingDir:  c.Dir,
			Labels:      labels(t, c.Labels, nodeID),
			StopSignal:  c.StopSignal,
			StopTimeout: stopTimeout(c),

			ExposedPorts: exposed,
		},
		HostConfig: host,
		Ingress:    meshAddr(t),
	}, nil
}

func labels(t *cluster.Task, user map[string]string, nodeID string) map[string]string {
	out := make(map[string]string, len(user)+6)
	for k, v := range user {
		out[k] = v
	}
	out[labelTask] = ""
	out[labelTaskID] = t.ID
	out[labelTaskName] = taskName(t)
	out[labelServiceID] = t.ServiceID
	out[labelServiceName] = t.ServiceName
	out[labelNodeID] = nodeID
	return out
}

// stopTimeout is the grace period in whole seconds, rounded up, for who stops the container by itself.
func stopTimeout(c *swarm.ContainerSpec) *int {
	if c.StopGracePeriod == nil {
		return nil
	}
	n := int(math.Ceil(c.StopGracePeriod.Seconds()))
	return &n
}

func hostConfig(t *cluster.Task, c *swarm.ContainerSpec) (*container.HostConfig, error) {
	h := &container.HostConfig{
		Resources:      resources(t.Spec.Resources),
		Mounts:         c.Mounts,
		CapAdd:         c.CapabilityAdd,
		CapDrop:        c.CapabilityDrop,
		GroupAdd:       c.Groups,
		Sysctls:        c.Sysctls,
		ReadonlyRootfs: c.ReadOnly,
		OomScoreAdj:    int(c.OomScoreAdj),
		Init:           c.Init,
		Isolation:      c.Isolation,
	}
	h.Ulimits = c.Ulimits
	if d := t.Spec.LogDriver; d != nil {
		h.LogConfig = container.LogConfig{Type: d.Name, Config: d.Options}
	}
	if d := c.DNSConfig; d != nil {
		h.DNS, h.DNSSearch, h.DNSOptions = d.Nameservers, d.Search, d.Options
	}
	for _, line := range c.Hosts {
		f := strings.Fields(line)
		if len(f) < 2 {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid host %q: it needs an address and a name", line))
		}
		for _, name := range f[1:] {
			h.ExtraHosts = append(h.ExtraHosts, name+":"+f[0])
		}
	}
	if c.Privileges != nil {
		h.SecurityOpt = securityOpt(c.Privileges)
	}
	if cluster.OnHostNetwork(&t.Spec) {
		h.NetworkMode = "host"
	}
	if a := t.Access; a != nil {
		h.Privileged, h.Devices = a.Privileged, a.Devices
	}
	return h, nil
}

// resources are what the container may use at most. Reservations are the business of placement.
func resources(r *swarm.ResourceRequirements) container.Resources {
	var out container.Resources
	if r == nil {
		return out
	}
	if l := r.Limits; l != nil {
		out.NanoCPUs, out.Memory = l.NanoCPUs, l.MemoryBytes
		if l.Pids > 0 {
			out.PidsLimit = &l.Pids
		}
	}
	if s := r.SwapBytes; s != nil && out.Memory > 0 {
		// The engine counts memory and swap together.
		out.MemorySwap = out.Memory + *s
		if *s < 0 {
			out.MemorySwap = -1
		}
	}
	out.MemorySwappiness = r.MemorySwappiness
	return out
}

func securityOpt(p *swarm.Privileges) []string {
	var out []string
	if p.NoNewPrivileges {
		out = append(out, "no-new-privileges=true")
	}
	if s := p.Seccomp; s != nil {
		switch s.Mode {
		case swarm.SeccompModeUnconfined:
			out = append(out, "seccomp=unconfined")
		case swarm.SeccompModeCustom:
			out = append(out, "seccomp="+string(s.Profile))
		}
	}
	if a := p.AppArmor; a != nil && a.Mode == swarm.AppArmorModeDisabled {
		out = append(out, "apparmor=unconfined")
	}
	if s := p.SELinuxContext; s != nil {
		if s.Disable {
			out = append(out, "label=disable")
		}
		for _, kv := range [][2]string{{"user", s.User}, {"role", s.Role}, {"type", s.Type}, {"level", s.Level}} {
			if kv[1] != "" {
				out = append(out, "label="+kv[0]+":"+kv[1])
			}
		}
	}
	return out
}
