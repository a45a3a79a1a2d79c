package fake

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/enginetest"
	netfake "shoal.dev/shoal/internal/network/fake"
)

func TestConformance(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Fixture {
		e := New()
		e.Sandboxes = net{&netfake.Network{}}
		t.Cleanup(e.Close)
		if err := errors.Join(e.AddImage("busybox:test"), e.Offer("registry.test/team/busybox:1")); err != nil {
			t.Fatal(err)
		}
		return enginetest.Fixture{Engine: e, Image: "busybox:test", Remote: "registry.test/team/busybox:1",
			Command: func(steps ...string) []string { return []string{strings.Join(steps, "; ")} }}
	})
}

// net gives a container every port that it asks for but the one that is taken.
type net struct{ *netfake.Network }

func (n net) Attach(ctx context.Context, id string, a engine.Attachment) (engine.Sandbox, error) {
	for _, p := range a.Ports {
		if p.First == enginetest.TakenPort {
			return engine.Sandbox{}, errdefs.ErrConflict.WithMessage("Bind for 0.0.0.0:666 failed: port is already allocated")
		}
	}
	return n.Network.Attach(ctx, id, a)
}

// In a bubble an hour of waiting takes no time, and nothing is left behind.
func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New()
		e.AnyImage, e.PullTime, e.StartTime = true, time.Minute, time.Second
		begin := time.Now()
		if err := e.Pull(t.Context(), "web:1", engine.PullOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		id, _, err := e.Create(t.Context(), engine.Spec{Config: &container.Config{Image: "web:1", Cmd: []string{"sleep", "1h;", "exit", "9"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		ch, err := e.Wait(t.Context(), id, container.WaitConditionNotRunning)
		if err != nil {
			t.Fatal(err)
		}
		if r := <-ch; r.ExitCode != 9 || r.Err != nil {
			t.Errorf("ended with %+v; want 9", r)
		}
		if took := time.Since(begin); took != time.Hour+time.Minute+time.Second {
			t.Errorf("took %s; want 1h1m1s", took)
		}
	})
}

func TestSpoiling(t *testing.T) {
	e := New()
	t.Cleanup(e.Close)
	ctx := context.Background()
	boom := errors.New("boom")
	e.FailPulls(boom)
	if err := e.Pull(ctx, "web:1", engine.PullOptions{}, nil); !errors.Is(err, boom) {
		t.Errorf("pull: %v; want boom", err)
	}
	if err := e.AddImage("web:1"); err != nil {
		t.Fatal(err)
	}
	id, _, err := e.Create(ctx, engine.Spec{Config: &container.Config{Image: "web:1", Cmd: []string{"/hello"}}})
	if err != nil {
		t.Fatal(err)
	}
	e.FailStarts(boom)
	if err := e.Start(ctx, id); !errors.Is(err, boom) {
		t.Errorf("start: %v; want boom", err)
	}
	e.FailStarts(nil)
	if err := e.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := e.Crash(id, 11); err != nil {
		t.Fatal(err)
	}
	if i, err := e.Inspect(ctx, id); err != nil || i.State.ExitCode != 11 || i.State.Running {
		t.Errorf("after the crash: %+v, %v", i.State, err)
	}
	if err := e.Crash(id, 11); err == nil {
		t.Error("a container that had ended crashed again")
	}
}
