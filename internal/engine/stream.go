package engine

import (
	"context"
	"io"

	"github.com/moby/moby/api/types/container"
)

// Execs is further commands in running containers. An instance is named by the ID that CreateExec gave; it is kept in
// memory only, until some minutes after its end or until its container goes.
type Execs interface {
	// CreateExec prepares a command; nothing runs yet. Conflict if the container does not run.
	CreateExec(ctx context.Context, name string, r container.ExecCreateRequest) (id string, err error)
	// StartExec runs it and, unless o.Detach, returns when it has ended and all its output was written, or when the
	// client's end broke, said the detach keys or, on a terminal, sent no more. What goes on then, goes on unheard. An
	// instance starts once; Conflict the second time. An error before o.Open was called leaves the instance as it was.
	StartExec(ctx context.Context, id string, o ExecStart) error
	ResizeExec(ctx context.Context, id string, height, width uint) error
	// InspectExec says how it is doing. The exit code is there before StartExec returns.
	InspectExec(ctx context.Context, id string) (*container.ExecInspectResponse, error)
}

// Attachments is the standard streams of containers' first processes.
type Attachments interface {
	// Attach connects to them and returns when the container has ended and all its output was written, or as
	// StartExec does when the client's end ended. A container that does not run is waited for: what it writes from its
	// first byte on is heard.
	Attach(ctx context.Context, name string, o AttachOptions) error
	// Resize sets the size of the container's terminal; Conflict if the container does not run.
	Resize(ctx context.Context, name string, height, width uint) error
}

// Streams are a client's ends. They may still be read and written, until that fails, after the call they were given to
// has returned: whoever made them closes them then.
type Streams struct {
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer // nil: not wanted. A terminal writes to Stdout only.
}

// ExecStart says how to run a prepared command.
type ExecStart struct {
	Detach      bool
	ConsoleSize *[2]uint // height and width; nil for what CreateExec said
	// Open is called once, when nothing stands against running the command any more, unless Detach. It gives the
	// client's ends; its error ends the start.
	Open func() (Streams, error)
}

// AttachOptions says what to attach to.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Logs                  bool // first what the container's log holds
	Stream                bool // then what it writes from now on
	// DetachKeys end the attachment to a terminal, such as "ctrl-p,ctrl-q", which "" stands for.
	DetachKeys string
	// Open is called once, when what the container writes from now on is heard. It gives the client's ends.
	Open func() (Streams, error)
}
