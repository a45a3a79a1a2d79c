package fake

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine/ledger"
)

// change replaces a container under its lock.
func (e *Engine) change(ctx context.Context, name, action string, to func(*ledger.Container) (*ledger.Container, error)) error {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := to(c)
	if err == nil {
		e.ledger.Put(n, ledger.Action{Name: action})
		e.watchHealth(n)
	}
	return err
}

// Pause implements engine.Life; the steps of a container go on all the same.
func (e *Engine) Pause(ctx context.Context, name string) error {
	return e.change(ctx, name, "pause", ledger.Paused)
}

// Unpause implements engine.Life.
func (e *Engine) Unpause(ctx context.Context, name string) error {
	return e.change(ctx, name, "unpause", ledger.Unpaused)
}

// Rename implements engine.Life.
func (e *Engine) Rename(ctx context.Context, name, to string) error {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	err = e.ledger.Rename(c, to, func(*ledger.Container) error { return nil })
	if err != nil || !c.Running() || !e.usesSandbox(c) {
		return err
	}
	n, err := e.ledger.Find(c.ID)
	if err != nil {
		return err
	}
	a, err := n.Attachment()
	if err == nil {
		_, err = e.Sandboxes.Attach(ctx, n.ID, a)
	}
	return err
}

// Top implements engine.Life: a container has one process.
func (e *Engine) Top(_ context.Context, name string, _ []string) (*container.TopResponse, error) {
	c, err := e.ledger.Find(name)
	if err == nil {
		err = ledger.NotRunning(c)
	}
	if err != nil {
		return nil, err
	}
	return &container.TopResponse{Titles: []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"},
		Processes: [][]string{{"root", strconv.Itoa(c.State.Pid), "1", "0", "00:00", "?", "00:00:00", strings.Join(c.Argv(), " ")}}}, nil
}

// Stats implements engine.Life: a container uses one CPU all the time, and a MiB.
func (e *Engine) Stats(_ context.Context, name string) (*container.StatsResponse, error) {
	c, err := e.ledger.Find(name)
	if err != nil {
		return nil, err
	}
	s := &container.StatsResponse{ID: c.ID, Name: "/" + c.Name, OSType: "linux"}
	if c.Running() {
		now := time.Now()
		s.Read = now
		s.PidsStats.Current = 1
		s.MemoryStats.Usage, s.MemoryStats.Limit = 1<<20, 1<<30
		if c.HostConfig.Memory > 0 {
			s.MemoryStats.Limit = uint64(c.HostConfig.Memory)
		}
		s.CPUStats.OnlineCPUs = 1
		s.CPUStats.CPUUsage.TotalUsage = uint64(now.Sub(c.State.StartedAt))
		s.CPUStats.SystemUsage = uint64(now.UnixNano())
	}
	return s, nil
}

// Update implements engine.Life.
func (e *Engine) Update(ctx context.Context, name string, u container.UpdateConfig) ([]string, error) {
	const leastMemory = 6 << 20 // Docker's
	err := e.change(ctx, name, "update", func(c *ledger.Container) (*ledger.Container, error) {
		if u.Memory != 0 && u.Memory < leastMemory {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "Minimum memory limit allowed is 6MB")
		}
		return ledger.Updated(c, u)
	})
	return []string{}, err
}

// Prune implements engine.Life.
func (e *Engine) Prune(ctx context.Context, filters map[string][]string) (container.PruneReport, error) {
	r := container.PruneReport{ContainersDeleted: []string{}}
	list, err := e.ledger.Prunable(filters, time.Now())
	if err != nil {
		return r, err
	}
	for _, c := range list {
		if err := e.Remove(ctx, c.ID, false); err == nil {
			r.ContainersDeleted = append(r.ContainersDeleted, c.ID)
		} else if !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			return r, err
		}
	}
	e.ledger.ReportPrune("0")
	return r, nil
}

// Size implements engine.Life: containers write no files.
func (e *Engine) Size(_ context.Context, name string) (rw, rootFS int64, err error) {
	_, err = e.ledger.Find(name)
	return 0, 0, err
}
