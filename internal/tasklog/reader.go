package tasklog

import (
	"container/heap"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/engine"
)

const (
	// settle is how long lines wait for those of a task that wrote some just now, where logs are followed: older ones
	// may be on their way.
	settle = 50 * time.Millisecond
	// settleOpen is likewise for a node that has not answered yet.
	settleOpen = time.Second
	// warnAgain is how long nothing more is said of a node that cannot be reached, whatever number of tasks it has.
	warnAgain = time.Minute
	// maxTasks is how many tasks' logs are read at a time.
	maxTasks = 1000
)

// Reader is a manager's side. It is safe for concurrent use.
type Reader struct {
	// Tasks says which tasks are meant.
	Tasks interface {
		Feed(ctx context.Context, of control.LogsOf) (*control.Feed, error)
	}
	// Reach is the way to a node's [Handler].
	Reach func(ctx context.Context, nodeID string) (http.RoundTripper, error)
}

func (r *Reader) now() time.Time { return time.Now().UTC() }

// TaskLogs calls each for every line of the tasks, by their times; before, it calls open once with whether their
// containers have terminals. With Follow it goes on with the tasks that come, until ctx ends, or the service or the task
// does. A log that cannot be read is an error at the end; where logs are followed, a line in its place. An error of
// each ends it and is returned.
func (r *Reader) TaskLogs(ctx context.Context, of control.LogsOf, o engine.LogOptions, open func(tty bool), each func(control.TaskLine) error) error {
	feed, err := r.Tasks.Feed(ctx, of)
	if err != nil {
		return err
	}
	defer feed.Close()
	open(feed.TTY)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &merger{r: r, feed: feed, opts: o, each: each, in: make(chan arrival), seen: map[string]bool{}, warned: map[string]time.Time{}}
	return m.run(ctx)
}

// merger passes on the lines of many sources in the order of their times.
type merger struct {
	r    *Reader
	feed *control.Feed
	opts engine.LogOptions
	each func(control.TaskLine) error
	in   chan arrival

	seen    map[string]bool      // tasks whose source was begun
	open    []*source            // sources that have not ended
	heads   heads                // those that have a line
	warned  map[string]time.Time // when it was said of a node that it cannot be reached
	begun   bool                 // the tasks of the beginning are known
	omitted int                  // tasks beyond maxTasks
	whys    []string             // why logs are not whole
}

// news is what the feed tells.
type news struct {
	tasks []*cluster.Task
	last  bool
	err   error
}

func (m *merger) run(ctx context.Context) error {
	tasks, last, err := m.feed.Next(ctx)
	if err != nil {
		return err
	}
	m.take(ctx, tasks)
	m.begun = true
	var more chan news
	if m.opts.Follow && !last {
		more = make(chan news)
		done := make(chan struct{})
		defer func() { <-done }() // the feed is closed after
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			defer close(done)
			m.watch(ctx, more)
		}()
	}
	for {
		wait, err := m.emit()
		if err != nil {
			return err
		}
		if len(m.open) == 0 && len(m.heads) == 0 && more == nil {
			return m.incomplete()
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case a := <-m.in:
			m.arrive(a)
		case n := <-more:
			if n.err != nil {
				return n.err
			}
			m.take(ctx, n.tasks)
			if n.last {
				more = nil
			}
		case <-timer:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watch passes on what the feed tells.
func (m *merger) watch(ctx context.Context, out chan<- news) {
	for {
		var n news
		n.tasks, n.last, n.err = m.feed.Next(ctx)
		select {
		case out <- n:
		case <-ctx.Done():
			return
		}
		if n.last || n.err != nil {
			return
		}
	}
}

// take begins to read the tasks that have something to read.
func (m *merger) take(ctx context.Context, tasks []*cluster.Task) {
	for _, t := range tasks {
		c := t.Status.ContainerStatus
		if m.seen[t.ID] || t.NodeID == "" || c == nil || c.ContainerID == "" {
			continue
		}
		if m.opts.Follow && cluster.Before(t.Status.State, swarm.TaskStateRunning) {
			continue // it is told again when it runs
		}
		m.seen[t.ID] = true
		name, down, member := m.feed.Node(t.NodeID)
		if !member && t.Ended() {
			continue // its log went with its node
		}
		if len(m.open) >= maxTasks {
			m.omitted++
			continue
		}
		s := &source{r: m.r, task: t, opts: m.opts, out: m.in, took: make(chan struct{}, 1), since: time.Now(), patient: settleOpen}
		s.node, s.down = name, down
		if m.begun { // all that it wrote is new
			s.opts.Tail = -1
		}
		m.open = append(m.open, s)
		go s.run(ctx)
	}
}

func (m *merger) arrive(a arrival) {
	s := a.from
	switch {
	case a.ended:
		m.open = slices.DeleteFunc(m.open, func(o *source) bool { return o == s })
		if a.why != "" {
			m.whys = append(m.whys, a.why)
		}
	case a.warning != "":
		if last, said := m.warned[s.task.NodeID]; said && time.Since(last) < warnAgain {
			s.took <- struct{}{}
			return
		}
		m.warned[s.task.NodeID] = time.Now()
		s.head = []control.TaskLine{s.line(engine.LogLine{Stream: "stderr", Time: m.r.now(), Line: []byte(a.warning)})}
		heap.Push(&m.heads, s)
	case len(a.lines) == 0:
		s.since, s.patient = time.Now(), settle
	default:
		s.head = a.lines
		heap.Push(&m.heads, s)
	}
}

// emit passes on the lines that no older one can come before, and says after which time to try again; 0 is never.
func (m *merger) emit() (time.Duration, error) {
	for len(m.heads) > 0 {
		if wait := m.wait(); wait != 0 {
			return max(wait, 0), nil
		}
		// As long as a source has the oldest line, the others need not be looked at.
		s := m.heads[0]
		var bound time.Time
		for _, i := range []int{1, 2} {
			if i < len(m.heads) && (bound.IsZero() || m.heads[i].head[0].Time.Before(bound)) {
				bound = m.heads[i].head[0].Time
			}
		}
		for {
			l := s.head[0]
			s.head = s.head[1:]
			if err := m.each(l); err != nil {
				return 0, err
			}
			if len(s.head) == 0 || !bound.IsZero() && s.head[0].Time.After(bound) {
				break
			}
		}
		if len(s.head) > 0 {
			heap.Fix(&m.heads, 0)
			continue
		}
		heap.Pop(&m.heads)
		s.since, s.patient = time.Now(), settle
		s.took <- struct{}{}
	}
	return 0, nil
}

// wait is how long the lines that are there have to wait for a source that has none: 0 for none, negative for as long
// as it takes.
func (m *merger) wait() time.Duration {
	if len(m.heads) >= len(m.open) {
		return 0
	}
	if !m.opts.Follow {
		return -1
	}
	var longest time.Duration
	now := time.Now()
	for _, s := range m.open {
		if len(s.head) == 0 {
			longest = max(longest, s.patient-now.Sub(s.since))
		}
	}
	return longest
}

// incomplete is the error of logs that are not whole, in Docker's words.
func (m *merger) incomplete() error {
	if m.omitted > 0 {
		m.whys = append(m.whys, fmt.Sprintf("%d more tasks have logs, and at most %d are read at a time", m.omitted, maxTasks))
	}
	if len(m.whys) == 0 {
		return nil
	}
	slices.Sort(m.whys)
	return errdefs.ErrUnavailable.WithMessage("warning: incomplete log stream. some logs could not be retrieved for the following reasons: " +
		strings.Join(slices.Compact(m.whys), ", "))
}

// heads is a heap of sources by the time of their oldest line.
type heads []*source

func (h heads) Len() int           { return len(h) }
func (h heads) Less(i, j int) bool { return h[i].head[0].Time.Before(h[j].head[0].Time) }
func (h heads) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *heads) Push(x any)        { *h = append(*h, x.(*source)) }
func (h *heads) Pop() any {
	old := *h
	s := old[len(old)-1]
	*h = old[:len(old)-1]
	return s
}
