package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine/ledger"
)

// Top implements engine.Life with the host's ps, as Docker does: the container needs none.
func (e *Engine) Top(ctx context.Context, name string, args []string) (*container.TopResponse, error) {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	if err := checkPSArgs(args); err != nil {
		return nil, err
	}
	c, err := e.ledger.Find(name)
	if err != nil {
		return nil, err
	}
	if err := ledger.NotRunning(c); err != nil {
		return nil, err
	}
	r, err := e.tasks.ListPids(e.scope(ctx), &tasks.ListPidsRequest{ContainerID: c.ID})
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", c.ID, errgrpc.ToNative(err))
	}
	pids := map[int]bool{}
	for _, p := range r.Processes {
		pids[int(p.Pid)] = true
	}
	out, err := exec.CommandContext(ctx, "ps", args...).Output()
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, ledger.Errorf(errdefs.ErrNotImplemented, "listing a container's processes needs the program ps on the host (package procps)")
		}
		text := err.Error()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			text = string(bytes.TrimSpace(exit.Stderr))
		}
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "error running ps: %s", text)
	}
	return parsePS(string(out), pids)
}

// psAlias is an output field that is given another heading, as in "-o pid=x", which hides the column that tells whose
// a process is.
var psAlias = regexp.MustCompile(`\s+([^\s]*)=\s*(pid[^\s]*)|pid=`)

func checkPSArgs(args []string) error {
	if m := psAlias.FindString(" " + strings.Join(args, " ")); m != "" {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "specifying %q is not allowed: the column PID is needed as it is", strings.TrimSpace(m))
	}
	return nil
}

// parsePS takes the lines of the processes from what ps printed. The last column may hold spaces.
func parsePS(out string, pids map[int]bool) (*container.TopResponse, error) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	titles := strings.Fields(lines[0])
	col := slices.Index(titles, "PID")
	if col < 0 {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "Couldn't find PID field in ps output")
	}
	top := &container.TopResponse{Titles: titles, Processes: [][]string{}}
	mine := false
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) <= col {
			continue
		}
		// The line of a thread belongs to the process above it, and has a dash for its PID.
		if f[col] != "-" {
			pid, err := strconv.Atoi(f[col])
			if err != nil {
				return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "Unexpected pid '%s': %s", f[col], err)
			}
			mine = pids[pid]
		}
		if !mine {
			continue
		}
		if n := len(titles); len(f) > n {
			f = append(f[:n-1:n-1], strings.Join(f[n-1:], " "))
		}
		top.Processes = append(top.Processes, f)
	}
	return top, nil
}
