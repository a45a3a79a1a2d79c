package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/containerd/shimdata"
)

// drainTime is how long Delete waits for the last output of a container whose processes are gone. A process that
// escaped (--pid=host) may hold the pipes open for ever.
const drainTime = 10 * time.Second

// keeper is containerd's task service with the stdout URL of package shimdata understood.
type keeper struct {
	taskapi.TTRPCTaskService

	mu   sync.Mutex
	kept map[string]*kept // by container ID
}

// kept is what the shim holds for a container of ours.
type kept struct {
	target shimdata.Target
	drain  sync.WaitGroup
	log    *shimdata.LogWriter // nil: the output is thrown away
	hub    *hub
	pidfd  int    // of the first process, or -1
	oom    string // file that counts the kernel's kills in the container's cgroup, or ""
}

// RegisterTTRPC makes shim.RunShim serve the keeper.
func (k *keeper) RegisterTTRPC(s *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(s, k)
	return nil
}

// Create replaces our stdout URL by FIFOs that this process reads.
func (k *keeper) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	target, ours, err := shimdata.ParseTarget(r.Stdout)
	if err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "%s", err)
	}
	if !ours {
		return k.TTRPCTaskService.Create(ctx, r)
	}
	c := &kept{target: target, pidfd: -1}
	if c.hub, err = c.offer(r, func() { k.closeStdin(r.ID) }); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("streams of container %s: %w", r.ID, err))
	}
	writers, err := c.open(ctx, r)
	if err != nil {
		c.hub.end(0)
		return nil, errgrpc.ToGRPC(fmt.Errorf("log of container %s: %w", r.ID, err))
	}
	// The exit of a process that ends at once is recorded under its ID, so it must be known before the process runs.
	k.mu.Lock()
	k.kept[r.ID] = c
	k.mu.Unlock()
	resp, err := k.TTRPCTaskService.Create(ctx, r)
	for _, w := range writers { // the runtime holds its own ends now, or never will
		w.Close()
	}
	if err != nil {
		k.forget(r.ID)
		return nil, err
	}
	if fd, err := unix.PidfdOpen(int(resp.Pid), 0); err == nil {
		k.mu.Lock()
		c.pidfd = fd
		k.mu.Unlock()
	}
	c.oom = oomCounter(int(resp.Pid))
	return resp, nil
}

// Kill signals the first process itself: a pidfd cannot hit a stranger, and it spares a run of runc.
func (k *keeper) Kill(ctx context.Context, r *taskapi.KillRequest) (*types.Empty, error) {
	if r.ExecID == "" && !r.All {
		k.mu.Lock()
		c := k.kept[r.ID]
		fd := -1
		if c != nil {
			fd = c.pidfd
		}
		k.mu.Unlock()
		if fd >= 0 {
			switch err := unix.PidfdSendSignal(fd, unix.Signal(r.Signal), nil, 0); {
			case err == nil:
				return &types.Empty{}, nil
			case errors.Is(err, unix.ESRCH):
				return nil, errgrpc.ToGRPCf(errdefs.ErrNotFound, "process already finished")
			}
		}
	}
	return k.TTRPCTaskService.Kill(ctx, r)
}

// Delete returns only when all that the container wrote is in its log.
func (k *keeper) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if r.ExecID == "" {
		// Whoever listens may be slow. The runtime waits for the last output, and in the end throws away what nobody took
		// from it: so it is taken.
		k.mu.Lock()
		if c := k.kept[r.ID]; c != nil {
			c.hub.rush()
		}
		k.mu.Unlock()
	}
	resp, err := k.TTRPCTaskService.Delete(ctx, r)
	if err == nil && r.ExecID == "" {
		k.forget(r.ID)
	}
	return resp, err
}

// forget waits for the container's output and lets go of what was held for it.
func (k *keeper) forget(id string) {
	k.mu.Lock()
	c := k.kept[id]
	delete(k.kept, id)
	k.mu.Unlock()
	if c == nil {
		return
	}
	done := make(chan struct{})
	go func() { c.drain.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainTime):
		log.L.Warnf("container %s: output not drained after %s", id, drainTime)
	}
	c.release()
}

// release lets go of the log, the listeners, which get what they have not got yet, and the process.
func (c *kept) release() {
	if c.log != nil {
		c.log.Close()
	}
	c.hub.end(drainTime / 2)
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
	}
}

// open makes a FIFO a stream, puts its path into r and starts to read it. The returned files keep the FIFOs open for
// writing until the runtime has opened them, lest the readers see an end.
func (c *kept) open(ctx context.Context, r *taskapi.CreateTaskRequest) (_ []*os.File, err error) {
	if c.target.Log != "" {
		if c.log, err = shimdata.OpenLog(c.target); err != nil {
			return nil, err
		}
	} else if c.target.Attach == "" {
		r.Stdout, r.Stderr = "", ""
		return nil, nil
	}
	var writers []*os.File
	defer func() {
		if err != nil {
			for _, w := range writers {
				w.Close()
			}
			if c.log != nil {
				c.log.Close()
			}
		}
	}()
	streams := map[string]*string{"stdout": &r.Stdout, "stderr": &r.Stderr}
	if r.Terminal {
		delete(streams, "stderr") // a terminal has one stream
		r.Stderr = ""
	}
	for name, field := range streams {
		path := filepath.Join(r.Bundle, name+".fifo")
		if err := syscall.Mkfifo(path, 0o600); err != nil && !errors.Is(err, os.ErrExist) {
			return writers, err
		}
		rd, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return writers, err
		}
		wr, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			rd.Close()
			return writers, err
		}
		writers = append(writers, wr)
		*field = path
		c.drain.Go(func() {
			defer rd.Close()
			if err := c.copy(name, rd); err != nil {
				log.G(ctx).WithError(err).Errorf("log of container %s", r.ID)
			}
		})
	}
	return writers, nil
}

// recorder writes an exit down before it is published.
type recorder struct {
	shim.Publisher
	k *keeper
}

func (p recorder) Publish(ctx context.Context, topic string, e events.Event) error {
	if x, ok := e.(*apievents.TaskExit); ok && x.ID == x.ContainerID {
		p.k.mu.Lock()
		c := p.k.kept[x.ContainerID]
		p.k.mu.Unlock()
		if c != nil {
			err := shimdata.WriteExit(c.target.Exit, shimdata.Exit{
				Pid: int(x.Pid), Code: int(x.ExitStatus), At: x.ExitedAt.AsTime(), OOMKilled: oomKills(c.oom) > 0,
			})
			if err != nil {
				log.G(ctx).WithError(err).Errorf("exit record of container %s", x.ContainerID)
			}
		}
	}
	return p.Publisher.Publish(ctx, topic, e)
}

// oomCounter is the file in which the kernel counts its kills for want of memory in pid's cgroup: memory.oom_control
// of cgroup v1, memory.events of v2. The count is read at the end because the event may come after the exit.
func oomCounter(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return ""
	}
	unified := ""
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) < 3:
		case strings.Contains(","+f[1]+",", ",memory,"):
			return filepath.Join("/sys/fs/cgroup/memory", f[2], "memory.oom_control")
		case f[0] == "0" && f[1] == "":
			unified = filepath.Join("/sys/fs/cgroup", f[2], "memory.events")
		}
	}
	return unified
}

// oomKills reads the line "oom_kill N" that both kinds of file have.
func oomKills(path string) int {
	if path == "" {
		return 0
	}
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if n, ok := strings.CutPrefix(s.Text(), "oom_kill "); ok {
			v, _ := strconv.Atoi(n)
			return v
		}
	}
	return 0
}
