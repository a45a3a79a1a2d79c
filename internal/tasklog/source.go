package tasklog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/engine"
)

const (
	// openTimeout bounds how long a node may take to answer.
	openTimeout = 10 * time.Second
	// againMin and againMax are the times between tries to reach a node.
	againMin = 100 * time.Millisecond
	againMax = 2 * time.Second
	// patience is how long a node may be out of reach before that is said, where the log is followed, or given up.
	patience = 3 * time.Second
	// maxBatch bounds the lines of one task that are passed on together, in bytes. Of each task's lines at most two
	// such batches are in memory.
	maxBatch = 32 << 10
)

// source reads the log of one task.
type source struct {
	r    *Reader
	task *cluster.Task
	node string // what to call the node
	down bool   // the swarm takes the node for down
	opts engine.LogOptions
	out  chan<- arrival
	took chan struct{} // has a value when the merger has used up what it got; capacity 1

	last  time.Time // time of the newest line
	equal int       // lines of that time

	// What follows is the merger's.
	head    []control.TaskLine
	since   time.Time     // when it had no line any more
	patient time.Duration // how long the lines of others wait for it then
}

// arrival is news of a source.
type arrival struct {
	from  *source
	lines []control.TaskLine
	ended bool
	why   string // why the log is not whole, for a source that ended
	// warning stands for a line that says why there are none.
	warning string
}

// run reads until the log ends or ctx does.
func (s *source) run(ctx context.Context) {
	why := s.read(ctx)
	s.tell(ctx, arrival{from: s, ended: true, why: why})
}

func (s *source) tell(ctx context.Context, a arrival) bool {
	select {
	case s.out <- a:
		return true
	case <-ctx.Done():
		return false
	}
}

// read returns why the log is not whole; "" if it is.
func (s *source) read(ctx context.Context) string {
	var broken time.Time // since when the node cannot be reached
	said := false
	for again := againMin; ; again = min(2*again, againMax) {
		before, first := s.last, s.equal
		err := s.stream(ctx)
		var remote remoteError
		switch {
		case err == nil, ctx.Err() != nil, errdefs.IsNotFound(err): // a container that was removed has no log
			return ""
		case errors.As(err, &remote):
			return fmt.Sprintf("the log of task %s on node %s: %s", s.task.ID, s.node, remote)
		case errdefs.IsPermissionDenied(err):
			return fmt.Sprintf("node %s: %s", s.node, err)
		}
		now := time.Now()
		if broken.IsZero() || s.last != before || s.equal != first {
			broken, said, again = now, false, againMin
		}
		if s.down || now.Sub(broken) >= patience {
			text := fmt.Sprintf("node %s is not available: %s", s.node, err)
			if !s.opts.Follow {
				return text
			}
			if !said {
				said = true
				s.tell(ctx, arrival{from: s, warning: "shoal: the log of this task cannot be read now, and is tried again: " + text + "\n"})
				s.wait(ctx)
			}
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return ""
		}
	}
}

func (s *source) line(l engine.LogLine) control.TaskLine {
	return control.TaskLine{LogLine: l, NodeID: s.task.NodeID, ServiceID: s.task.ServiceID, TaskID: s.task.ID}
}

// wait waits until the merger has used up what it got.
func (s *source) wait(ctx context.Context) {
	select {
	case <-s.took:
	case <-ctx.Done():
	}
}

// stream reads once from the node; nil is the end of the log.
func (s *source) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o := s.opts
	skip := 0
	if !s.last.IsZero() { // go on behind the last line
		o.Since, o.Tail, skip = s.last, -1, s.equal
	}
	body, err := s.open(ctx, o)
	if err != nil {
		return err
	}
	defer body.Close()
	if !s.tell(ctx, arrival{from: s}) {
		return context.Cause(ctx)
	}
	br := bufio.NewReaderSize(body, 32<<10)
	var batch []control.TaskLine
	size, pending := 0, false // pending: the merger has a batch
	for {
		l, err := readRecord(br)
		if err == nil {
			if skip > 0 && l.Time.Equal(o.Since) {
				skip--
				continue
			}
			skip = 0
			if !l.Time.Equal(s.last) {
				s.last, s.equal = l.Time, 0
			}
			s.equal++
			batch = append(batch, s.line(l))
			size += len(l.Line) + 100
			if size < maxBatch && br.Buffered() > 0 {
				continue
			}
		}
		if len(batch) > 0 {
			if pending {
				s.wait(ctx)
			}
			if !s.tell(ctx, arrival{from: s, lines: batch}) {
				return context.Cause(ctx)
			}
			batch, size, pending = nil, 0, true
		}
		if err != nil {
			if pending {
				s.wait(ctx)
			}
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// open asks the node. The answer's body is to be closed.
func (s *source) open(ctx context.Context, o engine.LogOptions) (io.ReadCloser, error) {
	rt, err := s.reach(ctx)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(request{TaskID: s.task.ID, ContainerID: s.task.Status.ContainerStatus.ContainerID, Options: o})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(openTimeout, cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node"+Path, bytes.NewReader(b))
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := rt.RoundTrip(req)
	if !late.Stop() && err == nil {
		resp.Body.Close()
		err = fmt.Errorf("it did not answer within %s", openTimeout)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return &body{resp.Body, cancel}, nil
	}
	defer cancel()
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what there is of it
	message := strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
	if class := classes[resp.StatusCode]; class != nil {
		return nil, fmt.Errorf("%s: %w", message, class)
	}
	return nil, fmt.Errorf("it answered %s: %s", resp.Status, message)
}

func (s *source) reach(ctx context.Context) (http.RoundTripper, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	return s.r.Reach(ctx, s.task.NodeID)
}

// body ends its request when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}
