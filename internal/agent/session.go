package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

const (
	// connectTimeout bounds the way to a manager; openTimeout that to its first frame, for which it may have to catch
	// up.
	connectTimeout = 5 * time.Second
	openTimeout    = 10 * time.Second
	// againMin and againMax bound the random time between two sessions.
	againMin = 100 * time.Millisecond
	againMax = time.Second
	// quietPeriods is the number of heartbeat periods without a frame after which a manager is given up.
	quietPeriods = 3
	// patience is the number of heartbeats in a row that a manager may refuse, which it does while it does not reach
	// the leader. It doubles up to patienceMax while no manager is better.
	patience    = 2
	patienceMax = 16
)

var (
	errQuiet  = errors.New("the manager was not heard for three heartbeat periods")
	errLost   = errors.New("the connection to the manager was lost")
	errLonely = errors.New("the manager does not accept heartbeats")
)

// runSessions keeps a session with some manager.
func (a *Agent) runSessions(ctx context.Context) error {
	a.calm.Store(patience)
	for {
		err := a.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		again := againMin + rand.N(againMax-againMin)
		a.log.Info("no session with a manager", "reason", err, "again", again.Round(time.Millisecond))
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return nil
		}
	}
}

// session connects to a manager and does what it says until the session ends, and says why it did.
func (a *Agent) session(ctx context.Context) error {
	dial, cancelDial := context.WithTimeout(ctx, connectTimeout)
	s, err := a.cfg.Connect(dial)
	cancelDial()
	if err != nil {
		return fmt.Errorf("connecting to a manager: %w", err)
	}
	if s.Close != nil {
		defer s.Close()
	}
	ctx, end := context.WithCancelCause(ctx)
	var helpers sync.WaitGroup // they end before the next session begins, so that its statuses come after theirs
	defer helpers.Wait()
	defer end(nil)
	if s.Done != nil {
		go func() {
			select {
			case <-s.Done:
				end(errLost)
			case <-ctx.Done():
			}
		}()
	}
	quiet := time.AfterFunc(openTimeout, func() { end(errQuiet) })
	defer quiet.Stop()
	a.mu.Lock()
	had := a.seen
	a.mu.Unlock()
	node := a.cfg.Describe(ctx)
	a.vault.describe(a.cfg.NodeID, node)
	resp, err := protocol.Open(ctx, s.RoundTripper, protocol.PathSession, protocol.SessionRequest{
		Epoch: had.Epoch, Version: had.Version, Description: node, Addr: a.cfg.Addr,
	})
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	frames := bufio.NewReaderSize(resp.Body, 32<<10)
	period := time.Duration(0)
	beat := make(chan time.Duration, 1)
	for first := true; ; first = false {
		f, err := protocol.Read(frames)
		if err != nil {
			return because(ctx, err)
		}
		if first != f.Complete {
			return errors.New("the manager sent a complete frame at the wrong place")
		}
		if f.HeartbeatPeriod > 0 && f.HeartbeatPeriod != period {
			period = f.HeartbeatPeriod
			select {
			case <-beat:
			default:
			}
			beat <- period
		}
		if period <= 0 {
			period = protocol.DefaultHeartbeat
		}
		quiet.Stop() // what the agent itself needs for a frame is not the manager's silence
		if err := a.take(ctx, f); err != nil {
			return because(ctx, err)
		}
		quiet.Reset(quietPeriods * period)
		if first {
			a.log.Info("session with a manager", "version", f.Version, "tasks", len(f.Tasks))
			helpers.Go(func() { a.out.send(ctx, s.RoundTripper, a.cfg.NodeID, a.log) })
			helpers.Go(func() { a.heartbeats(ctx, s.RoundTripper, period, beat, end) })
		}
	}
}

// because is the reason for which ctx ended, if it did: it says more than the error that followed from it.
func because(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

func sendBeat(ctx context.Context, rt http.RoundTripper, timeout time.Duration, req protocol.HeartbeatRequest) (protocol.HeartbeatResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return protocol.Beat(ctx, rt, req)
}

// beatEvery is the time between two heartbeats: a tenth less than the period, so that a node that has missed three of
// them is known to be down within three periods, the time to find out included.
func beatEvery(period time.Duration) time.Duration { return period * 9 / 10 }

// heartbeats tells the manager that the node lives and which version its kernel holds.
func (a *Agent) heartbeats(ctx context.Context, rt http.RoundTripper, period time.Duration, beat <-chan time.Duration, end context.CancelCauseFunc) {
	missed := 0
	next := time.NewTimer(rand.N(period)) // so that many nodes do not keep step
	defer next.Stop()
	for {
		changed := false
		select {
		case <-next.C:
		case <-a.net.told:
			changed = true
		case period = <-beat:
			next.Reset(rand.N(period))
			continue
		case <-ctx.Done():
			return
		}
		next.Reset(beatEvery(period))
		st, _ := a.net.get()
		want, err := sendBeat(ctx, rt, period, protocol.HeartbeatRequest{Applied: st.applied, Changed: changed})
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			missed = 0
			a.calm.Store(patience)
			a.cfg.OnRole(want.Role)
			if want.Certificate != nil {
				a.cfg.OnCertificate(*want.Certificate)
			}
		default:
			if missed++; missed >= int(a.calm.Load()) {
				a.calm.Store(min(2*a.calm.Load(), patienceMax))
				end(fmt.Errorf("%w: %w", errLonely, err))
				return
			}
		}
	}
}

// take does what a frame says.
func (a *Agent) take(ctx context.Context, f *protocol.Frame) error {
	a.mu.Lock()
	had := a.seen
	a.mu.Unlock()
	switch {
	case f.Epoch < had.Epoch:
		return fmt.Errorf("the manager is of epoch %d of the swarm, the node has seen epoch %d", f.Epoch, had.Epoch)
	case f.Epoch == had.Epoch && f.Version < had.Version:
		return fmt.Errorf("the manager is at version %d of the swarm, the node has seen version %d", f.Version, had.Version)
	case f.Epoch > had.Epoch && !f.Complete:
		return errors.New("the swarm's epoch changed within a session")
	}
	a.clock.hear(f.Now)
	var held map[string]string
	if f.Complete {
		var err error
		if held, err = a.containers(ctx); err != nil {
			return err
		}
	}
	if f.Managers != nil {
		a.cfg.OnManagers(f.Managers)
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if f.Mesh != nil {
		in, err := f.Mesh.Resolve(a.ingress)
		if err != nil {
			return err
		}
		a.ingress = in
	}
	overlays, err := f.ResolveOverlays(a.overlays)
	if err != nil {
		return err
	}
	a.overlays = overlays
	a.seen = seen{f.Epoch, f.Version}
	// A complete frame is applied even if nothing changed: it repairs what others broke.
	a.net.set(network.Desired{Version: f.Version, Self: a.cfg.NodeID, Ingress: a.ingress, Overlays: overlays},
		f.Mesh != nil || f.Complete || len(f.Overlays)+len(f.OverlaysGone) > 0, f.Epoch != had.Epoch)
	a.vault.take(f)
	a.assign(f, held)
	a.vault.drop(f.DroppedFiles)
	return nil
}

// containers are the tasks' containers that are there, by task.
func (a *Agent) containers(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	list, err := a.cfg.Engine.List(ctx, engine.ListOptions{All: true, Filters: map[string][]string{"label": {labelTaskID}}})
	if err != nil {
		return nil, fmt.Errorf("listing the containers of tasks: %w", err)
	}
	out := make(map[string]string, len(list))
	for _, c := range list {
		if id := c.Labels[labelTaskID]; id != "" {
			out[id] = c.ID
		}
	}
	return out, nil
}
