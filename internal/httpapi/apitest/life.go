package apitest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

func (f *Engine) Restart(ctx context.Context, name string, o engine.StopOptions) error {
	if err := f.Stop(ctx, name, o); err != nil {
		return err
	}
	return f.Start(ctx, name)
}

func (f *Engine) Pause(_ context.Context, name string) error {
	return f.freeze(name, true, "Container %s is already paused")
}

func (f *Engine) Unpause(_ context.Context, name string) error {
	return f.freeze(name, false, "Container %s is not paused")
}

func (f *Engine) freeze(name string, paused bool, refusal string) error {
	c, err := f.find(name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen[c.id] == paused {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf(refusal, c.id))
	}
	f.frozen[c.id] = paused
	return nil
}

func (f *Engine) Rename(_ context.Context, name, to string) error {
	c, err := f.find(name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if to == "" {
		return errdefs.ErrInvalidArgument.WithMessage("Neither old nor new names may be empty")
	}
	delete(f.ByName, c.Spec.Name)
	c.Spec.Name = to
	f.ByName[to] = c
	return nil
}

func (f *Engine) Top(_ context.Context, name string, args []string) (*container.TopResponse, error) {
	if _, err := f.find(name); err != nil {
		return nil, err
	}
	return &container.TopResponse{Titles: []string{"PID", "ARGS"}, Processes: [][]string{{"7", strings.Join(args, "+")}}}, nil
}

// Stats counts the samples in the CPU's time.
func (f *Engine) Stats(_ context.Context, name string) (*container.StatsResponse, error) {
	c, err := f.find(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &container.StatsResponse{ID: c.id, Name: "/" + c.Spec.Name, OSType: "linux"}
	if c.running {
		f.samples++
		s.Read = time.Unix(int64(f.samples), 0)
		s.CPUStats.CPUUsage.TotalUsage = uint64(f.samples)
	}
	return s, nil
}

func (f *Engine) Update(_ context.Context, name string, u container.UpdateConfig) ([]string, error) {
	c, err := f.find(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	h := container.HostConfig{}
	if c.Spec.HostConfig != nil {
		h = *c.Spec.HostConfig
	}
	h.Resources, h.RestartPolicy = u.Resources, u.RestartPolicy
	c.Spec.HostConfig = &h
	return nil, nil
}

// Prune removes what does not run; its only filter is label, which matches nothing.
func (f *Engine) Prune(_ context.Context, filters map[string][]string) (container.PruneReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := container.PruneReport{SpaceReclaimed: 5}
	for k := range filters {
		if k != "label" {
			return r, errdefs.ErrInvalidArgument.WithMessage("invalid filter '" + k + "'")
		}
		return r, nil
	}
	for name, c := range f.ByName {
		if !c.running {
			delete(f.ByName, name)
			r.ContainersDeleted = append(r.ContainersDeleted, c.id)
		}
	}
	return r, nil
}

func (f *Engine) Size(_ context.Context, name string) (rw, rootFS int64, err error) {
	_, err = f.find(name)
	return 3, 1 << 33, err
}
