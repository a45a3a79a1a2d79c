package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/types/network"
	"github.com/rogpeppe/go-internal/testscript"

	"shoal.dev/shoal/cmd/shoal/internal/dryrun"
	"shoal.dev/shoal/compat/transcript"
	"shoal.dev/shoal/internal/control"
	serverdryrun "shoal.dev/shoal/internal/dryrun"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
	"shoal.dev/shoal/internal/network/local"
)

// TestDryRun runs the scripts of testdata/dryrun against a swarm that is real but for its containers.
func TestDryRun(t *testing.T) {
	cmds := transcript.Commands()
	cmds["until"] = until
	testscript.Run(t, testscript.Params{Dir: "testdata/dryrun", Cmds: cmds, Setup: func(e *testscript.Env) error {
		sock, _, err := serveToySwarm(e)
		e.Vars = append(e.Vars, "GORACE=atexit_sleep_ms=0", "HOME="+e.WorkDir, "DOCKER_HOST=unix://"+sock)
		return err
	}})
}

// serveToySwarm serves the API of a swarm of three nodes, with dry runs, on a socket until the script ends.
func serveToySwarm(e *testscript.Env) (sock string, ctl *control.Control, err error) {
	ctl, stop, err := toySwarm()
	if err != nil {
		return "", nil, err
	}
	e.Defer(stop)
	dir, err := os.MkdirTemp("", "shoal")
	if err != nil {
		return "", nil, err
	}
	e.Defer(func() { os.RemoveAll(dir) })
	sock = filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		return "", nil, err
	}
	eng, sw := apitest.NewEngine(), apitest.NewSwarm()
	sw.Active = true
	runs := serverdryrun.New(serverdryrun.Config{Control: ctl, Host: func() []network.Inspect { return nil }})
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: runs.Wrap(httpapi.New(httpapi.Config{
		Containers: eng, Images: eng, Host: apitest.Host{}, Swarm: sw, Control: ctl, Networks: &ofSwarm{control: ctl}, DryRuns: runs,
	}))}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	e.Defer(func() { s.Close(); <-done })
	return sock, ctl, nil
}

// ofSwarm are a swarm's networks without a host's.
type ofSwarm struct {
	others
	control *control.Control
}

// others panic when they are called.
type others interface{ httpapi.Networks }

func (n *ofSwarm) Networks(ctx context.Context, filters map[string][]string) ([]network.Inspect, error) {
	f, err := local.NewFilter(filters)
	if err != nil {
		return nil, err
	}
	all, err := n.control.Networks(ctx)
	return slices.DeleteFunc(all, func(i network.Inspect) bool { return !f.Match(&i) }), err
}

func (n *ofSwarm) CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.CreateResponse, error) {
	id, err := n.control.CreateNetwork(ctx, r)
	return &network.CreateResponse{ID: id}, err
}

func (n *ofSwarm) Network(ctx context.Context, ref, scope string, _ bool) (*network.Inspect, error) {
	all, err := n.control.Networks(ctx)
	if err != nil {
		return nil, err
	}
	return local.Pick(all, ref, scope)
}

func (n *ofSwarm) RemoveNetwork(ctx context.Context, ref string) error {
	return n.control.RemoveNetwork(ctx, ref, false)
}

// TestDryRunCommands fails when docker/cli has moved a command that has the flag.
func TestDryRunCommands(t *testing.T) {
	prepareEnvironment()
	dc, err := command.NewDockerCli(command.WithCombinedStreams(&bytes.Buffer{}))
	if err != nil {
		t.Fatal(err)
	}
	root, _, _ := newRoot(dc)
	if missing := dryrun.Missing(root); len(missing) > 0 {
		t.Errorf("there are no commands %q any more", missing)
	}
}
