package node

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// foundGroup makes a swarm of three managers; the first leads.
func foundGroup(t *testing.T) []*testManager {
	t.Helper()
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	all := []*testManager{foundSwarmAt(t, first.Addr().String())}
	ca, _ := store.Get[*cluster.Authority](all[0].store.Snapshot(), cluster.SingletonID)
	for _, id := range []string{"m2", "m3"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		st := &state{SwarmID: "sw", NodeID: id, Role: swarm.NodeRoleManager, ListenAddr: addr, AdvertiseAddr: addr, RaftKey: newRaftKey()}
		m := openTestManager(t, t.TempDir(), st, identity(t, ca, "sw", id))
		if err := all[0].cons.AddVoter(t.Context(), id, addr); err != nil {
			t.Fatal(err)
		}
		until(t, id+" knows who leads", func() bool { got, _, _ := m.cons.Leader(); return got == "m1" })
		all = append(all, m)
	}
	return all
}

func TestAManagerThatEndsHandsOver(t *testing.T) {
	ms := foundGroup(t)
	ms[0].handOver(t.Context())
	if ms[0].cons.IsLeader() {
		t.Error("it still leads")
	}
	until(t, "another leads", func() bool { return ms[1].cons.IsLeader() || ms[2].cons.IsLeader() })
	alone := foundSwarm(t)
	began := time.Now()
	alone.handOver(t.Context())
	if d := time.Since(began); !alone.cons.IsLeader() || d > time.Second {
		t.Errorf("a manager alone: leads %v after %s", alone.cons.IsLeader(), d)
	}
}

// A leader that is frozen or cut off answers nothing, and its connection is not closed for seconds.
func TestARequestDoesNotWaitForALeaderThatLeadsNoMore(t *testing.T) {
	ms := foundGroup(t)
	asked := make(chan struct{})
	frozen, err := link.NewServer(link.ServerConfig{
		ListenAddr: "127.0.0.1:0", AdvertiseAddr: "127.0.0.1:1", Identity: pki.NewHolder(ms[0].id), Log: slog.New(slog.DiscardHandler),
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(asked)
			<-r.Context().Done()
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = frozen.Run(t.Context()) }()
	l, err := link.Dial(t.Context(), frozen.Addr().String(), link.DialConfig{Identity: pki.NewHolder(ms[1].id), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, addr, _ := ms[1].cons.Leader()
	ms[1].peers.byAddr[addr] = &peerLink{link: l, dialing: make(chan struct{}, 1)}

	failed := make(chan error, 1)
	go func() {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://leader/hang", nil)
		resp, err := leaderTransport{ms[1].manager}.RoundTrip(r)
		if err == nil {
			resp.Body.Close()
			err = errors.New("it was answered")
		}
		failed <- err
	}()
	<-asked
	if err := ms[0].cons.Transfer(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		if !strings.Contains(err.Error(), consensus.ErrUnknownOutcome.Error()) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for the old leader")
	}
	// What is asked next goes to the new one, and an answer can be read to its end.
	until(t, "the new leader answers", func() bool {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://leader"+pathReadIndex, nil)
		resp, err := leaderTransport{ms[1].manager}.RoundTrip(r)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK && strings.Contains(string(body), "Index")
	})
}
