package tasklog

import (
	"bufio"
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/link"
)

// labelTask is the label of a task's container that has its task's ID; see package agent.
const labelTask = "com.docker.swarm.task.id"

// flushAfter is how long a line may wait for others before it is sent.
const flushAfter = 10 * time.Millisecond

// Containers is what a node's side needs of the engine.
type Containers interface {
	Inspect(ctx context.Context, name string) (*container.InspectResponse, error)
	Logs(ctx context.Context, name string, o engine.LogOptions, each func(engine.LogLine) error) error
}

// Handler is a node's side. Only managers may ask, and only for containers of tasks.
func Handler(c Containers) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := link.PeerFrom(r.Context()); !ok || p.Role != swarm.NodeRoleManager {
			http.Error(w, "only managers may read the logs of tasks", http.StatusForbidden)
			return
		}
		if r.Method != http.MethodPost || r.URL.Path != Path {
			http.NotFound(w, r)
			return
		}
		req, err := decodeRequest(w, r)
		if err != nil {
			http.Error(w, "reading a request for a log: "+err.Error(), http.StatusBadRequest)
			return
		}
		in, err := c.Inspect(r.Context(), req.ContainerID)
		if err == nil && (in.Config == nil || in.Config.Labels[labelTask] != req.TaskID) {
			err = errdefs.ErrNotFound.WithMessage("container " + req.ContainerID + " is not of task " + req.TaskID)
		}
		if err != nil {
			status := http.StatusInternalServerError
			if errdefs.IsNotFound(err) {
				status = http.StatusNotFound
			}
			http.Error(w, err.Error(), status)
			return
		}
		send(w, func(each func(engine.LogLine) error) error {
			return c.Logs(r.Context(), in.ID, req.Options, each)
		})
	})
}

// send writes what read gives as records, and sends them soon.
func send(w http.ResponseWriter, read func(each func(engine.LogLine) error) error) {
	s := &sender{w: bufio.NewWriterSize(w, 32<<10), c: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/octet-stream")
	s.flush() // the manager now knows that it was heard
	var buf []byte
	err := read(func(l engine.LogLine) error {
		kind := byte(recordStdout)
		if l.Stream == "stderr" {
			kind = recordStderr
		}
		buf = appendRecord(buf[:0], kind, l.Time, l.Line)
		return s.write(buf)
	})
	if err != nil {
		buf = appendRecord(buf[:0], recordError, time.Time{}, []byte(err.Error()))
	} else {
		buf = appendRecord(buf[:0], recordEnd, time.Time{}, nil)
	}
	_ = s.write(buf) // the manager is gone if this fails, as if the flush does
	s.close()
}

// sender collects records for a moment.
type sender struct {
	c *http.ResponseController

	mu     sync.Mutex
	w      *bufio.Writer
	armed  bool
	closed bool
}

func (s *sender) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	if !s.armed {
		s.armed = true
		time.AfterFunc(flushAfter, s.flush)
	}
	return nil
}

// flush sends what there is, unless the answer has ended.
func (s *sender) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	if !s.closed && s.w.Flush() == nil {
		_ = s.c.Flush() // the next write fails, too
	}
}

func (s *sender) close() {
	s.flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}
