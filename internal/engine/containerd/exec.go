package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// maxAccounts is how much of a container's passwd and group files is read, in bytes.
const maxAccounts = 4 << 20

// CreateExec implements engine.Execs.
func (e *Engine) CreateExec(_ context.Context, name string, r container.ExecCreateRequest) (string, error) {
	ex, err := e.execs.Add(e.ledger, name, r)
	if err != nil {
		return "", err
	}
	return ex.ID, nil
}

// InspectExec implements engine.Execs.
func (e *Engine) InspectExec(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	ex, err := e.execs.Find(id)
	if err != nil {
		return nil, err
	}
	return ex.Inspect(), nil
}

// resizeWait is how long a resize waits for its command to run: clients send one as soon as they have asked for the
// start. Docker waits as long.
const resizeWait = 10 * time.Second

// ResizeExec implements engine.Execs.
func (e *Engine) ResizeExec(ctx context.Context, id string, height, width uint) error {
	ex, err := e.execs.Find(id)
	if err != nil {
		return err
	}
	t := time.NewTimer(resizeWait)
	defer t.Stop()
	select {
	case <-ex.Ready():
	case <-t.C:
		return errors.New("timeout waiting for exec session ready")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if ex.Ended() {
		return ledger.Errorf(errdefs.ErrConflict, "exec command %s is not running", id)
	}
	return e.resize(ctx, ex.Container.ID, ex.ID, height, width)
}

// Resize implements engine.Attachments.
func (e *Engine) Resize(ctx context.Context, name string, height, width uint) error {
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	if !c.Running() {
		return ledger.Errorf(errdefs.ErrConflict, "container %s is not running", c.ID)
	}
	return e.resize(ctx, c.ID, "", height, width)
}

func (e *Engine) resize(ctx context.Context, id, exec string, height, width uint) error {
	if height > 0xffff || width > 0xffff {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "invalid terminal size: %d rows and %d columns", height, width)
	}
	_, err := e.tasks.ResizePty(e.scope(ctx), &tasks.ResizePtyRequest{ContainerID: id, ExecID: exec, Width: uint32(width), Height: uint32(height)})
	if err != nil {
		return fmt.Errorf("resize the terminal of container %s: %w", id[:12], errgrpc.ToNative(err))
	}
	return nil
}

// StartExec implements engine.Execs.
func (e *Engine) StartExec(ctx context.Context, id string, o engine.ExecStart) error {
	ex, err := e.execs.Begin(e.ledger, id)
	if err != nil {
		return err
	}
	streams, err := ex.Open(e.ledger, o)
	if err != nil {
		return err
	}
	// What runs is not the caller's to end: neither its context nor its connection stop it.
	life := e.scope(e.life)
	p, err := e.launch(life, ex, o, streams)
	if err != nil {
		err = execError(err)
		ex.Failed(execExitCode(err))
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.watchExec(life, ex, p)
	}()
	if o.Detach {
		return nil
	}
	left := make(chan error, 1)
	if streams.Stdin != nil {
		go func() { left <- p.feed(streams.Stdin, ex.Keys, func() { e.closeStdin(life, ex) }) }()
	}
	select {
	case <-ended:
		return nil
	case err := <-left:
		if errors.Is(err, errStdinOver) {
			select {
			case <-ended:
			case <-ctx.Done():
				p.mute()
				return context.Cause(ctx)
			}
			return nil
		}
		p.mute()
		if err == nil {
			e.ledger.Report(ex.Container, "exec_detach", map[string]string{"execID": ex.ID})
		}
		return nil
	case <-ctx.Done():
		p.mute()
		return context.Cause(ctx)
	}
}

func (e *Engine) closeStdin(ctx context.Context, ex *ledger.Exec) {
	// A command that has ended has closed it itself.
	_, _ = e.tasks.CloseIO(ctx, &tasks.CloseIORequest{ContainerID: ex.Container.ID, ExecID: ex.ID, Stdin: true})
}

// launch starts the command with its streams in FIFOs of this process.
func (e *Engine) launch(ctx context.Context, ex *ledger.Exec, o engine.ExecStart, s engine.Streams) (_ *pipes, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c := ex.Container
	proc, err := e.execProcess(ctx, c, &ex.Request)
	if err != nil {
		return nil, err
	}
	if size := o.ConsoleSize; size != nil && ex.Request.Tty {
		proc.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	spec, err := typeurl.MarshalAnyToProto(proc)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(e.cfg.State, "e", ex.ID)
	p, err := openPipes(dir, ex.Request.Tty, s)
	if err != nil {
		return nil, fmt.Errorf("streams of exec %s: %w", ex.ID, err)
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	req := &tasks.ExecProcessRequest{ContainerID: c.ID, ExecID: ex.ID, Terminal: ex.Request.Tty, Spec: spec,
		Stdin: p.paths["stdin"], Stdout: p.paths["stdout"], Stderr: p.paths["stderr"]}
	if _, err := e.tasks.Exec(ctx, req); err != nil {
		return nil, errgrpc.ToNative(err)
	}
	r, err := e.tasks.Start(ctx, &tasks.StartRequest{ContainerID: c.ID, ExecID: ex.ID})
	if err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		_, _ = e.tasks.DeleteProcess(cctx, &tasks.DeleteProcessRequest{ContainerID: c.ID, ExecID: ex.ID}) // it may not exist
		return nil, errgrpc.ToNative(err)
	}
	p.started()
	ex.Started(int(r.Pid))
	return p, nil
}

// watchExec waits for the command's end, then for its output, and only then lets go of it: containerd closes the
// streams of a process that it deletes.
func (e *Engine) watchExec(ctx context.Context, ex *ledger.Exec, p *pipes) {
	code := exitUnknown
	r, err := e.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: ex.Container.ID, ExecID: ex.ID})
	if err == nil {
		code = int(r.ExitStatus)
	} else if c, ferr := e.ledger.Find(ex.Container.ID); ferr != nil || !c.Running() {
		code = 137 // it went with its container
	}
	if ctx.Err() != nil { // the daemon ends; the command does not
		p.mute()
		p.close()
		return
	}
	p.drain()
	ex.End(e.ledger, code, map[string]string{"exitCode": strconv.Itoa(code)})
	p.close()
	cctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	go func() {
		defer cancel()
		_, err := e.tasks.DeleteProcess(cctx, &tasks.DeleteProcessRequest{ContainerID: ex.Container.ID, ExecID: ex.ID})
		if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
			e.cfg.Log.Debug("cannot clean up after a command", "container", ex.Container.ID, "exec", ex.ID, "error", err)
		}
	}()
}

// execProcess is the process of a command: the container's own with what the request changes.
func (e *Engine) execProcess(ctx context.Context, c *ledger.Container, r *container.ExecCreateRequest) (*specs.Process, error) {
	rec, err := e.containers.Get(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := typeurl.UnmarshalTo(rec.Spec, &spec); err != nil {
		return nil, err
	}
	p := spec.Process
	if p == nil || p.Capabilities == nil {
		return nil, fmt.Errorf("container %s has no record of how it was started", c.ID[:12])
	}
	p.Terminal, p.Args, p.ConsoleSize, p.CommandLine = r.Tty, r.Cmd, nil, ""
	if r.Tty && r.ConsoleSize != nil {
		p.ConsoleSize = &specs.Box{Height: r.ConsoleSize[0], Width: r.ConsoleSize[1]}
	}
	if r.WorkingDir != "" {
		p.Cwd = r.WorkingDir
	}
	cfg, own := *c.Config, *c
	cfg.Tty, cfg.Env = r.Tty, append(append([]string{}, cfg.Env...), r.Env...)
	own.Config = &cfg
	p.Env = environment(&own)
	if r.User != "" {
		if p.User, err = execUser(c.State.Pid, r.User, p.User); err != nil {
			return nil, err
		}
	}
	caps := p.Capabilities.Bounding
	if r.Privileged {
		if caps, err = cap.Current(); err != nil {
			return nil, err
		}
	}
	p.Capabilities = &specs.LinuxCapabilities{Bounding: caps}
	if p.User.UID == 0 {
		p.Capabilities.Permitted, p.Capabilities.Effective = caps, caps
	}
	return p, nil
}

// execUser looks a user up in the files of the running container.
func execUser(pid int, name string, own specs.User) (specs.User, error) {
	passwd, err := readInside(pid, "etc/passwd")
	if err != nil {
		return own, err
	}
	group, err := readInside(pid, "etc/group")
	if err != nil {
		return own, err
	}
	u, err := user.GetExecUser(name, &user.ExecUser{}, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return own, ledger.Errorf(errdefs.ErrInvalidArgument, "%s", err) // "unable to find user …"
	}
	n := specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid), Umask: own.Umask}
	n.AdditionalGids = []uint32{n.GID} // as its container's
	for _, g := range u.Sgids {
		n.AdditionalGids = append(n.AdditionalGids, uint32(g))
	}
	return n, nil
}

// readInside reads a file of a container through its first process. No link in the container leads out of it. A file
// that is not there is empty.
func readInside(pid int, name string) (string, error) {
	root, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("the container's file system: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("/%s in the container: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", ledger.Errorf(errdefs.ErrInvalidArgument, "/%s in the container is no file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	return string(b), err
}

// execError gives a failed start Docker's words, which are runc's.
func execError(err error) error {
	text := err.Error()
	at := strings.Index(text, "OCI runtime exec failed")
	if at < 0 {
		return err
	}
	text = strings.TrimSuffix(strings.TrimSpace(text[at:]), ": unknown") + ": unknown"
	class := error(errdefs.ErrInternal)
	if code := exitCodeOf(text); code == 126 || code == 127 {
		class = errdefs.ErrInvalidArgument
	}
	return ledger.Errorf(class, "%s", text)
}

// execExitCode is the exit code of a command that did not start: as for a container, but 126 if the cause is unknown.
func execExitCode(err error) int {
	if !strings.Contains(err.Error(), "OCI runtime exec failed") {
		return 126
	}
	return exitCodeOf(err.Error())
}
