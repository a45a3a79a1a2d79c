package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/containerd/shimdata"
	"shoal.dev/shoal/internal/engine/ledger"
)

// extension is the key and the type of what we add to containerd's record of a container: a ledger.Container in JSON.
const extension = "dev.shoal.container.v1"

// exitUnknown is the exit code of a container of which nobody saw the end, as after a reboot. Docker's is the same.
const exitUnknown = 255

func encode(c *ledger.Container) (map[string]typeurl.Any, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return map[string]typeurl.Any{extension: &anypb.Any{TypeUrl: extension, Value: b}}, nil
}

// insert makes the durable record of a new container.
func (e *Engine) insert(ctx context.Context, c *ledger.Container, image string) error {
	ext, err := encode(c)
	if err != nil {
		return err
	}
	runtime, err := typeurl.MarshalAny(e.runtimeOptions())
	if err != nil {
		return err
	}
	spec, err := typeurl.MarshalAny(&specs.Spec{}) // a record needs one; the real one is made at each start
	if err != nil {
		return err
	}
	_, err = e.containers.Create(ctx, containers.Container{
		ID: c.ID, Image: image, Snapshotter: snapshotter, SnapshotKey: c.ID, Spec: spec, Extensions: ext,
		Runtime: containers.RuntimeInfo{Name: e.cfg.ShimPath, Options: runtime},
	})
	return err
}

// save writes what has changed of a container; spec may be nil. The runtime is that of this daemon's configuration.
func (e *Engine) save(ctx context.Context, c *ledger.Container, spec *specs.Spec) error {
	ext, err := encode(c)
	if err != nil {
		return err
	}
	rec, fields := containers.Container{ID: c.ID, Extensions: ext}, []string{"extensions." + extension}
	if spec != nil {
		if rec.Spec, err = typeurl.MarshalAny(spec); err != nil {
			return err
		}
		fields = append(fields, "spec")
	}
	_, err = e.containers.Update(ctx, rec, fields...)
	return err
}

func (e *Engine) runtimeOptions() *options.Options {
	return &options.Options{
		BinaryName: e.cfg.Runtime, Root: filepath.Join(e.cfg.State, "runc"), SystemdCgroup: e.cfg.SystemdCgroup,
	}
}

// load reads all containers into the ledger, with what happened to them while no daemon looked.
func (e *Engine) load(ctx context.Context) error {
	list, err := e.containers.List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	running, err := e.runningTasks(ctx)
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	known := map[string]bool{}
	for _, rec := range list {
		ext := rec.Extensions[extension]
		if ext == nil {
			e.cfg.Log.Warn("containerd holds a container that is not ours", "container", rec.ID)
			continue
		}
		var c ledger.Container
		if err := json.Unmarshal(ext.GetValue(), &c); err != nil {
			return fmt.Errorf("record of container %s: %w", rec.ID, err)
		}
		known[c.ID] = true
		e.ledger.Add(&c, "")
		e.volumes.Hold(c.ID, c.Mounts, c.Running())
		if !c.Running() && e.usesSandbox(&c) && e.cfg.Sandboxes != nil { // a crash may have come between its end and this
			if err := e.cfg.Sandboxes.Detach(ctx, c.ID); err != nil {
				e.cfg.Log.Warn("cannot detach a container from the network", "container", c.ID, "error", err)
			}
		}
		if c.Running() {
			e.catchUp(ctx, &c, running[c.ID])
		}
	}
	if err := e.volumes.Settle(); err != nil {
		e.cfg.Log.Warn("cannot unmount volumes that nothing uses", "error", err)
	}
	if err := e.sweepShm(); err != nil {
		e.cfg.Log.Warn("cannot unmount shared memory that nothing uses", "error", err)
	}
	return errors.Join(e.sweep(known), e.sweepFiles(known))
}

// runningTasks returns the first processes of the containers that have a live shim and a process.
func (e *Engine) runningTasks(ctx context.Context) (map[string]*tasktypes.Process, error) {
	r, err := e.tasks.List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	found := map[string]*tasktypes.Process{}
	for _, t := range r.Tasks {
		if t.Status == tasktypes.Status_RUNNING || t.Status == tasktypes.Status_PAUSED {
			found[t.ID] = t
		}
	}
	return found, nil
}

// catchUp brings the record of a container that ran when it was written up to date.
func (e *Engine) catchUp(ctx context.Context, c *ledger.Container, task *tasktypes.Process) {
	exit, err := shimdata.ReadExit(e.exitPath(c.ID))
	switch {
	case err == nil:
		e.ended(ctx, c, exit)
	case task != nil:
		n := *c
		n.State.Pid, n.State.Status = int(task.Pid), container.StateRunning
		if task.Status == tasktypes.Status_PAUSED {
			n.State.Status = container.StatePaused
		}
		if c.State.Sandbox.NetNS != "" && e.cfg.Sandboxes != nil { // the network may have forgotten it; the namespace has not
			if n.State.Sandbox, err = e.attach(ctx, c); err != nil {
				e.cfg.Log.Warn("cannot attach a running container to the network", "container", c.ID, "error", err)
				n.State.Sandbox = c.State.Sandbox
			}
		}
		e.ledger.Put(&n)
	default: // the machine, or the shim, went down with it
		e.ended(ctx, c, shimdata.Exit{Code: exitUnknown, At: time.Now()})
	}
}

// sweep removes the folders of containers that were never finished or never finished being removed.
func (e *Engine) sweep(known map[string]bool) error {
	dir := filepath.Join(e.cfg.Root, "containers")
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, d := range list {
		if !known[d.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, d.Name())))
		}
	}
	return err
}

func (e *Engine) exitPath(id string) string {
	return filepath.Join(e.cfg.containerDir(id), "exit.json")
}

// ended records that a container has ended, after what it left was cleaned up and its log is complete, and tells
// everybody. The caller holds the container's lock, or nobody else knows of the container yet.
func (e *Engine) ended(ctx context.Context, c *ledger.Container, exit shimdata.Exit) {
	e.waiting.rush(c.ID)
	e.probes.Stop(c.ID)
	_, err := e.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: c.ID})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		// What remains of it would only hinder a next start, and that tries again.
		e.cfg.Log.Warn("cannot clean up after a container", "container", c.ID, "error", err)
	}
	_ = os.Remove(e.cfg.attachPath(c.ID)) // a shim that was killed leaves it
	e.dropFiles(c)
	n := ledger.Ended(c, exit.Code, exit.At.UTC(), exit.OOMKilled)
	if err := e.save(ctx, n, nil); err != nil {
		// A disk that is full does not bring it back to life; the next daemon finds out by itself that it has ended.
		e.cfg.Log.Error("cannot record the end of a container", "container", c.ID, "error", err)
	}
	networked := c.State.Sandbox.NetNS != "" && e.cfg.Sandboxes != nil
	if networked { // before anybody hears of the end: who takes its place may want its ports
		if err := e.cfg.Sandboxes.Detach(ctx, c.ID); err != nil {
			e.cfg.Log.Warn("cannot detach a container from the network", "container", c.ID, "error", err)
		}
	}
	e.ledger.Put(n, ledger.EndActions(n)...)
	e.unmountVolumes(c)
	e.dropShm(c)
	if networked {
		e.ledger.ReportEndpoints(c.ID, c.State.Sandbox, engine.Sandbox{})
	}
}
