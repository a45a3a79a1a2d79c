package ledger

import (
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/escape"
)

// execKept is how long the record of an ended exec stays, so that a client can ask for its exit code. Docker's
// daemon looks for old ones at this interval, too.
const execKept = 5 * time.Minute

// Exec is a further command in a container. The exported fields do not change.
type Exec struct {
	ID        string // 64 hexadecimal digits
	Container *Container
	Request   container.ExecCreateRequest
	Keys      []byte // that detach
	mu        sync.Mutex
	begun     bool
	pid       int
	code      *int
	endedAt   time.Time
	running   bool
	started   chan struct{} // closed when it runs, or never will
}

// Execs holds them. The zero value is empty. It is safe for concurrent use.
type Execs struct {
	mu   sync.Mutex
	byID map[string]*Exec
}

// Active returns a container in which a command can run.
func (l *Ledger) Active(name string) (*Container, error) {
	c, err := l.Find(name)
	if err != nil {
		return nil, err
	}
	switch c.State.Status {
	case container.StatePaused:
		return nil, Errorf(errdefs.ErrConflict, "container %s is paused, unpause the container before exec", c.ID)
	case container.StateRestarting:
		return nil, Errorf(errdefs.ErrConflict, "container %s is restarting, wait until the container is running", c.ID)
	}
	if !c.Running() {
		return nil, Errorf(errdefs.ErrConflict, "container %s is not running", c.ID)
	}
	return c, nil
}

// Add takes in a command for a container of l, whose events it reports.
func (x *Execs) Add(l *Ledger, name string, r container.ExecCreateRequest) (*Exec, error) {
	c, err := l.Active(name)
	if err != nil {
		return nil, err
	}
	if len(r.Cmd) == 0 {
		return nil, Errorf(errdefs.ErrInvalidArgument, "No exec command specified")
	}
	keys, err := escape.Parse(r.DetachKeys)
	if err != nil {
		return nil, Errorf(errdefs.ErrInvalidArgument, "Invalid escape keys (%s) provided", r.DetachKeys)
	}
	for _, kv := range r.Env {
		if kv == "" || kv[0] == '=' {
			return nil, Errorf(errdefs.ErrInvalidArgument, "invalid environment variable: %s", kv)
		}
	}
	ex := &Exec{ID: NewID(), Container: c, Request: r, Keys: keys, started: make(chan struct{})}
	x.mu.Lock()
	if x.byID == nil {
		x.byID = map[string]*Exec{}
	}
	for id, old := range x.byID {
		if old.expired() {
			delete(x.byID, id)
		}
	}
	x.byID[ex.ID] = ex
	x.mu.Unlock()
	l.Report(c, "exec_create: "+strings.Join(r.Cmd, " "), map[string]string{"execID": ex.ID})
	return ex, nil
}

func (ex *Exec) expired() bool {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	return ex.code != nil && time.Since(ex.endedAt) > execKept
}

// Find returns the one of that ID.
func (x *Execs) Find(id string) (*Exec, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ex := x.byID[id]; ex != nil {
		return ex, nil
	}
	return nil, Errorf(errdefs.ErrNotFound, "No such exec instance: %s", id)
}

// Of lists the IDs of a container's commands that have not ended, as `inspect` shows them; nil for none.
func (x *Execs) Of(container string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, ex := range x.byID {
		if ex.Container.ID == container && !ex.Ended() {
			ids = append(ids, id)
		}
	}
	return ids
}

// Drop forgets the commands of a container that is gone.
func (x *Execs) Drop(container string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, ex := range x.byID {
		if ex.Container.ID == container {
			delete(x.byID, id)
		}
	}
}

// Begin claims the command for the one who starts it.
func (x *Execs) Begin(l *Ledger, id string) (*Exec, error) {
	ex, err := x.Find(id)
	if err != nil {
		return nil, err
	}
	c, err := l.Active(ex.Container.ID)
	if err != nil {
		return nil, err
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	switch {
	case ex.code != nil:
		return nil, Errorf(errdefs.ErrConflict, "exec command %s has already run", ex.ID)
	case ex.begun:
		return nil, Errorf(errdefs.ErrConflict, "exec command %s is already running", ex.ID)
	case c.State.Pid != ex.Container.State.Pid: // it was prepared for an earlier run, and what it needs may differ now
		return nil, Errorf(errdefs.ErrConflict, "container %s was restarted since exec command %s was created", c.ID, ex.ID)
	}
	ex.begun = true
	return ex, nil
}

// release gives a claim back: nothing was started.
func (ex *Exec) release() {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.begun = false
}

// Open asks for the client's ends, keeps those that the command was to have and reports that it is about to run. An error
// gives the claim back.
func (ex *Exec) Open(l *Ledger, o engine.ExecStart) (s engine.Streams, err error) {
	if !o.Detach {
		if s, err = o.Open(); err != nil {
			ex.release()
			return engine.Streams{}, err
		}
	}
	r := &ex.Request
	if !r.AttachStdin {
		s.Stdin = nil
	}
	if !r.AttachStdout {
		s.Stdout = nil
	}
	if !r.AttachStderr {
		s.Stderr = nil
	}
	ex.Begun(l)
	return s, nil
}

// Begun reports that the command is about to run.
func (ex *Exec) Begun(l *Ledger) {
	l.Report(ex.Container, "exec_start: "+strings.Join(ex.Request.Cmd, " "), map[string]string{"execID": ex.ID})
}

// Started notes that the command runs.
func (ex *Exec) Started(pid int) {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.running, ex.pid = true, pid
	close(ex.started)
}

// Failed notes that the command did not start.
func (ex *Exec) Failed(code int) {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.code, ex.endedAt = &code, time.Now()
	close(ex.started)
}

// End notes and reports its end.
func (ex *Exec) End(l *Ledger, code int, attrs map[string]string) {
	ex.mu.Lock()
	ex.running, ex.pid, ex.code, ex.endedAt = false, 0, &code, time.Now()
	ex.mu.Unlock()
	attrs["execID"] = ex.ID
	l.Report(ex.Container, "exec_die", attrs)
}

// Ended says whether it has ended or failed to start.
func (ex *Exec) Ended() bool {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	return ex.code != nil
}

// Ready is closed when it runs, or never will.
func (ex *Exec) Ready() <-chan struct{} { return ex.started }

// Inspect is the command as the API shows it.
func (ex *Exec) Inspect() *container.ExecInspectResponse {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	r := &ex.Request
	user, privileged := r.User, r.Privileged
	if user == "" {
		user = ex.Container.Config.User
	}
	return &container.ExecInspectResponse{
		ID: ex.ID, Running: ex.running, ExitCode: ex.code, Pid: ex.pid, ContainerID: ex.Container.ID,
		OpenStdin: r.AttachStdin, OpenStdout: r.AttachStdout, OpenStderr: r.AttachStderr, DetachKeys: ex.Keys,
		ProcessConfig: &container.ExecProcessConfig{Tty: r.Tty, Entrypoint: r.Cmd[0], Arguments: append([]string{}, r.Cmd[1:]...),
			Privileged: &privileged, User: user},
	}
}
