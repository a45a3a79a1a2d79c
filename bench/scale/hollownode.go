package scale

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
)

// hollowNode is a worker without containers and without a kernel: it joins as a worker does, holds a link as an agent does,
// and says of every task that it runs, or has stopped, as soon as it is told to.
type hollowNode struct {
	name, manager string
	id            string
	identity      *pki.Holder
	tasks         map[string]swarm.TaskState // as it has reported them
	version       atomic.Uint64
	heard         atomic.Int64 // when the routing mesh changed first since it was set to 0, in Unix nanoseconds
}

// join asks for membership until the manager, which lets few join a second from one address, has time.
func (h *hollowNode) join(ctx context.Context, token string) error {
	t, err := pki.ParseToken(token)
	if err != nil {
		return err
	}
	key, csr, err := pki.NewRequest()
	if err != nil {
		return err
	}
	for {
		cert, root, err := h.ask(ctx, t, token, csr)
		if err == nil {
			id, err := pki.NewIdentity(key, cert, root)
			if err != nil {
				return err
			}
			h.identity = pki.NewHolder(id)
			return nil
		}
		select {
		case <-time.After(500*time.Millisecond + rand.N(time.Second)):
		case <-ctx.Done():
			return fmt.Errorf("node %s cannot join: %w", h.name, err)
		}
	}
}

func (h *hollowNode) ask(ctx context.Context, t pki.Token, token string, csr []byte) (cert, root []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := link.JoinDial(ctx, nil, h.manager, t)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	body, err := json.Marshal(map[string]any{
		"Token": token, "CSR": csr, "Availability": swarm.NodeAvailabilityActive, "AdvertiseAddr": ":2377", "Description": h.description(),
	})
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://manager/join", bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, nil, err
	}
	var out struct {
		NodeID string
		Cert   []byte
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(data, &out) != nil {
		return nil, nil, fmt.Errorf("status %d: %s", resp.StatusCode, data)
	}
	h.id = out.NodeID
	return out.Cert, c.RootPEM, nil
}

func (h *hollowNode) description() swarm.NodeDescription {
	d := swarm.NodeDescription{Hostname: h.name, Platform: swarm.Platform{OS: "linux", Architecture: "x86_64"}}
	d.Resources = swarm.Resources{NanoCPUs: 256e9, MemoryBytes: 1 << 40}
	d.Engine.EngineVersion = "29.0.0"
	return d
}

// run keeps a session until ctx ends.
func (h *hollowNode) run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = h.session(ctx) // the manager is being started again
		select {
		case <-time.After(100*time.Millisecond + rand.N(400*time.Millisecond)):
		case <-ctx.Done():
		}
	}
}

func (h *hollowNode) session(ctx context.Context) error {
	l, err := link.Dial(ctx, h.manager, link.DialConfig{Identity: h.identity, Log: slog.New(slog.DiscardHandler), DeadAfter: time.Minute})
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, end := context.WithCancel(ctx)
	defer end()
	resp, err := protocol.Open(ctx, l, protocol.PathSession, protocol.SessionRequest{Version: h.version.Load(), Epoch: 1, Description: h.description(), Addr: "127.0.0.1"})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var beats sync.WaitGroup
	defer beats.Wait()
	defer end()
	beats.Go(func() { h.beat(ctx, l) })
	frames := bufio.NewReader(resp.Body)
	h.tasks = map[string]swarm.TaskState{}
	for {
		f, err := protocol.Read(frames)
		if err != nil {
			return err
		}
		if f.Mesh != nil {
			h.heard.CompareAndSwap(0, time.Now().UnixNano())
		}
		h.version.Store(f.Version)
		if err := h.report(ctx, l, f); err != nil {
			return err
		}
	}
}

func (h *hollowNode) beat(ctx context.Context, rt http.RoundTripper) {
	for {
		if _, err := protocol.Beat(ctx, rt, protocol.HeartbeatRequest{Applied: h.version.Load()}); err != nil {
			return
		}
		select {
		case <-time.After(protocol.DefaultHeartbeat * 9 / 10):
		case <-ctx.Done():
			return
		}
	}
}

// report says of the frame's tasks what they are meant to be.
func (h *hollowNode) report(ctx context.Context, rt http.RoundTripper, f *protocol.Frame) error {
	var statuses []protocol.TaskStatus
	for _, t := range f.Tasks {
		want := swarm.TaskStateRunning
		if !t.WantsToRun() {
			want = swarm.TaskStateShutdown
		}
		if t.Held() || t.Ended() || h.tasks[t.ID] == want || !cluster.Before(t.Status.State, want) {
			continue
		}
		h.tasks[t.ID] = want
		statuses = append(statuses, protocol.TaskStatus{TaskID: t.ID, Status: swarm.TaskStatus{
			State: want, Message: "started", Timestamp: f.Now, ContainerStatus: &swarm.ContainerStatus{ContainerID: t.ID + t.ID, PID: 4242},
		}})
	}
	for _, id := range f.Removed {
		delete(h.tasks, id)
	}
	for len(statuses) > 0 {
		n := min(len(statuses), protocol.MaxStatuses)
		if err := protocol.Post(ctx, rt, protocol.PathStatus, protocol.StatusRequest{Nodes: []protocol.NodeReport{{NodeID: h.id, Statuses: statuses[:n]}}}); err != nil {
			return err
		}
		statuses = statuses[n:]
	}
	return nil
}
