package ledger

import (
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// NotRunning is the refusal of what needs a process; nil if the container has one.
func NotRunning(c *Container) error {
	switch {
	case c.State.Status == container.StateRestarting:
		return Errorf(errdefs.ErrConflict, "Container %s is restarting, wait until the container is running", c.ID)
	case !c.Running():
		return Errorf(errdefs.ErrConflict, "container %s is not running", c.ID)
	}
	return nil
}

// Paused is c after it was frozen, or the reason why it cannot be.
func Paused(c *Container) (*Container, error) {
	if c.State.Status == container.StatePaused {
		return nil, Errorf(errdefs.ErrConflict, "Container %s is already paused", c.ID)
	}
	if err := NotRunning(c); err != nil {
		return nil, err
	}
	n := *c
	n.State.Status = container.StatePaused
	return &n, nil
}

// Unpaused is c after it was let go on, or the reason why it cannot be.
func Unpaused(c *Container) (*Container, error) {
	if c.State.Status != container.StatePaused {
		return nil, Errorf(errdefs.ErrConflict, "Container %s is not paused", c.ID)
	}
	n := *c
	n.State.Status = container.StateRunning
	return &n, nil
}

// Rename gives c, whose lock the caller holds, another name. save, which makes the change durable, is called when the
// name is free; should it fail, nothing has changed.
func (l *Ledger) Rename(c *Container, to string, save func(*Container) error) error {
	to = strings.TrimPrefix(to, "/")
	switch to {
	case "":
		return Errorf(errdefs.ErrInvalidArgument, "Neither old nor new names may be empty")
	case c.Name:
		return Errorf(errdefs.ErrInvalidArgument, "Renaming a container with the same name as its current name")
	}
	to, err := l.Reserve(to, c.ID)
	if err != nil {
		class := error(errdefs.ErrConflict)
		if errdefs.IsInvalidArgument(err) {
			class = errdefs.ErrInvalidArgument
		}
		return Errorf(class, "Error when allocating new name: %s", err)
	}
	n := *c
	n.Name = to
	drop := to
	if err = save(&n); err == nil {
		drop = c.Name
		l.Put(&n, Action{Name: "rename", Attributes: map[string]string{"oldName": "/" + c.Name}})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.names[drop] == c.ID {
		delete(l.names, drop)
	}
	return err
}

// Updated is c with other limits and another restart policy. Whether the limits make sense is for the engine to check.
func Updated(c *Container, u container.UpdateConfig) (*Container, error) {
	refuse := func(class error, format string, args ...any) error {
		return Errorf(class, "Cannot update container %s: %s", c.ID, Errorf(class, format, args...))
	}
	if err := container.ValidateRestartPolicy(u.RestartPolicy); err != nil {
		return nil, Errorf(errdefs.ErrInvalidArgument, "%s", err)
	}
	h := *c.HostConfig
	if u.RestartPolicy.Name != "" {
		if h.AutoRemove && !u.RestartPolicy.IsNone() {
			return nil, refuse(errdefs.ErrConflict, "Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		h.RestartPolicy = u.RestartPolicy
	}
	switch {
	case u.NanoCPUs != 0 && h.CPUPeriod > 0:
		return nil, refuse(errdefs.ErrConflict, "Nano CPUs cannot be updated as CPU Period has already been set")
	case u.NanoCPUs != 0 && h.CPUQuota > 0:
		return nil, refuse(errdefs.ErrConflict, "Nano CPUs cannot be updated as CPU Quota has already been set")
	case u.CPUPeriod != 0 && h.NanoCPUs > 0:
		return nil, refuse(errdefs.ErrConflict, "CPU Period cannot be updated as NanoCPUs has already been set")
	case u.CPUQuota != 0 && h.NanoCPUs > 0:
		return nil, refuse(errdefs.ErrConflict, "CPU Quota cannot be updated as NanoCPUs has already been set")
	case u.Memory != 0 && u.MemorySwap == 0 && h.MemorySwap > 0 && u.Memory > h.MemorySwap:
		return nil, refuse(errdefs.ErrConflict, "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	set(&h.CPUShares, u.CPUShares)
	set(&h.NanoCPUs, u.NanoCPUs)
	set(&h.CPUPeriod, u.CPUPeriod)
	set(&h.CPUQuota, u.CPUQuota)
	set(&h.CpusetCpus, u.CpusetCpus)
	set(&h.CpusetMems, u.CpusetMems)
	set(&h.Memory, u.Memory)
	set(&h.MemorySwap, u.MemorySwap)
	set(&h.MemoryReservation, u.MemoryReservation)
	set(&h.BlkioWeight, u.BlkioWeight)
	set(&h.PidsLimit, u.PidsLimit)
	n := *c
	n.HostConfig = &h
	return &n, nil
}

func set[T comparable](field *T, v T) {
	var zero T
	if v != zero {
		*field = v
	}
}

// Prunable returns the containers that a prune with the filters removes.
func (l *Ledger) Prunable(filters map[string][]string, now time.Time) ([]*Container, error) {
	until := now
	for key, values := range filters {
		switch key {
		case "label", "label!":
		case "until":
			if len(values) != 1 {
				return nil, Errorf(errdefs.ErrInvalidArgument, "more than one until filter specified")
			}
			t, err := parseUntil(values[0], now)
			if err != nil {
				return nil, err
			}
			until = t
		default:
			return nil, Errorf(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
		}
	}
	var list []*Container
next:
	for _, c := range l.All() {
		if c.Active() || c.Created.After(until) {
			continue
		}
		for _, v := range filters["label"] {
			if !MatchLabel(c.Config.Labels, v) {
				continue next
			}
		}
		for _, v := range filters["label!"] {
			if MatchLabel(c.Config.Labels, v) {
				continue next
			}
		}
		list = append(list, c)
	}
	return list, nil
}

// ReportPrune reports that a prune has ended.
func (l *Ledger) ReportPrune(reclaimed string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emitPrune(reclaimed)
}
