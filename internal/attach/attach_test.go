package attach_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/attach"
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/fake"
)

// swarmOf is a swarm with the network team, which comes to the host with the first attachment.
type swarmOf struct {
	host *fake.Network
	mu   sync.Mutex // guards held and away: places are given back in the background
	held map[string]cluster.Attachment
	next netip.Addr
	away error // no manager answers
	asks int
}

func newSwarm(host *fake.Network) *swarmOf {
	return &swarmOf{host: host, held: map[string]cluster.Attachment{}, next: netip.MustParseAddr("10.9.0.10")}
}

func (s *swarmOf) Find(_ context.Context, ref string) (*apinetwork.Inspect, error) {
	if s.away != nil || ref != "team" && ref != "teamid" {
		return nil, errdefs.ErrNotFound.WithMessage("network " + ref + " not found")
	}
	i := &apinetwork.Inspect{}
	i.ID, i.Name, i.Scope = "teamid", "team", "swarm"
	return i, nil
}

func (s *swarmOf) Attach(ctx context.Context, r cluster.AttachRequest) (*cluster.Attachment, error) {
	s.asks++
	if s.away != nil {
		return nil, s.away
	}
	switch r.Network {
	case "team", "teamid":
	case "closed":
		return nil, errdefs.ErrPermissionDenied.WithMessage("network closed not manually attachable")
	default:
		return nil, errdefs.ErrNotFound.WithMessage("network " + r.Network + " not found")
	}
	a := cluster.Attachment{TaskID: r.TaskID, ContainerID: r.ContainerID, NetworkID: "teamid", Addr: r.Addr}
	if !a.Addr.IsValid() {
		a.Addr, s.next = s.next, s.next.Next()
	}
	s.put(a)
	return &a, s.host.Apply(ctx, network.Desired{Overlays: []*network.Overlay{{
		ID: "teamid", Name: "team", Subnet: netip.MustParsePrefix("10.9.0.0/24"), Gateway: netip.MustParseAddr("10.9.0.1"),
	}}})
}

func (s *swarmOf) Detach(_ context.Context, ids []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return s.away
	}
	for _, id := range ids {
		delete(s.held, id)
	}
	return nil
}

// holds is what the swarm has at this moment.
func (s *swarmOf) holds() map[string]cluster.Attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.held)
}

// leave has no manager answer any more.
func (s *swarmOf) leave(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = err
}

func (s *swarmOf) put(a cluster.Attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[a.TaskID] = a
}

// tell is what the node's manager says.
func (s *swarmOf) tell(a *attach.Sandboxes) {
	var list []cluster.Attachment
	for _, h := range s.holds() {
		list = append(list, h)
	}
	a.Take(list)
}

func begin(t *testing.T, host *fake.Network, s *swarmOf) *attach.Sandboxes {
	a := attach.New(host, slog.New(slog.DiscardHandler))
	a.Begin(s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return a
}

func on(networks ...string) engine.Attachment {
	a := engine.Attachment{Name: "one", Networks: []engine.EndpointRequest{}}
	for _, n := range networks {
		a.Networks = append(a.Networks, engine.EndpointRequest{Network: n, Names: []string{"one"}})
	}
	return a
}

func drivers(s engine.Sandbox) (out []string) {
	for _, e := range s.Endpoints {
		out = append(out, e.Network+" "+e.Interface)
	}
	return out
}

func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fake.Network{}
		s := newSwarm(host)
		a := begin(t, host, s)
		if n, err := a.FindNetwork("team"); err != nil || n.ID != "teamid" {
			t.Errorf("%v %v", n, err)
		}
		sandbox, err := a.Attach(t.Context(), "c1", on("team"))
		if err != nil {
			t.Fatal(err)
		}
		// The way out is the host's.
		if got := drivers(sandbox); !slices.Equal(got, []string{"team eth0", "bridge eth1"}) {
			t.Errorf("it is on %v", got)
		}
		if e := sandbox.On("team"); e.Addr != netip.MustParseAddr("10.9.0.10") {
			t.Errorf("its address is %s", e.Addr)
		}
		s.tell(a)
		if again, err := a.Attach(t.Context(), "c1", on("team", "bridge")); err != nil || again.On("team").Addr != sandbox.On("team").Addr || s.asks != 1 {
			t.Errorf("%v %v, asked %d times", again, err, s.asks)
		}
		// Off the network again.
		if _, err := a.Attach(t.Context(), "c1", on("bridge")); err != nil || len(s.holds()) != 0 {
			t.Errorf("%v, the swarm holds %v", err, s.holds())
		}
		r := on("team")
		r.Networks[0].Addr = netip.MustParseAddr("10.9.0.99")
		if sandbox, err = a.Attach(t.Context(), "c1", r); err != nil || sandbox.On("team").Addr != r.Networks[0].Addr {
			t.Errorf("%v %v", sandbox, err)
		}
		// One that ends keeps its place for a moment.
		if err := a.Detach(t.Context(), "c1"); err != nil || len(s.holds()) != 1 {
			t.Errorf("%v, the swarm holds %v", err, s.holds())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(s.holds()) != 0 {
			t.Errorf("the swarm holds %v", s.holds())
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fake.Network{}
		s := newSwarm(host)
		a := begin(t, host, s)
		for network, want := range map[string]string{
			"closed":  "Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not manually attachable",
			"nowhere": "network nowhere not found",
		} {
			began := time.Now()
			if _, err := a.Attach(t.Context(), "c1", on(network)); err == nil || err.Error() != want || time.Since(began) != 0 {
				t.Errorf("%s: %v", network, err)
			}
		}
		// A host that has just started waits longer than one that has not.
		s.leave(errors.New("no manager"))
		for _, want := range []time.Duration{90 * time.Second, 20 * time.Second} {
			began := time.Now()
			_, err := a.Attach(t.Context(), "c1", on("team"))
			if err == nil || !strings.Contains(err.Error(), "check manager logs: context deadline exceeded") || time.Since(began) != want {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
			time.Sleep(time.Minute)
		}
	})
}

// TestTasksAreNotAskedFor leaves the containers of tasks alone: they have the swarm's addresses already.
func TestTasksAreNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fake.Network{}
		s := newSwarm(host)
		a := begin(t, host, s)
		r := on("team")
		r.Task = "t1"
		if _, err := a.Attach(t.Context(), "c1", r); !errdefs.IsNotFound(err) || s.asks != 0 {
			t.Errorf("%v, asked %d times", err, s.asks)
		}
	})
}

// TestWhatNobodyHoldsIsGivenBack: a daemon that died in between has its places known by the manager and by the host's
// network only; what both know stays, what the manager alone knows goes.
func TestWhatNobodyHoldsIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fake.Network{}
		s := newSwarm(host)
		a := begin(t, host, s)
		if _, err := a.Attach(t.Context(), "c1", on("team")); err != nil {
			t.Fatal(err)
		}
		s.put(cluster.Attachment{TaskID: "lost", ContainerID: "c2", NetworkID: "teamid", Addr: netip.MustParseAddr("10.9.0.20")})
		s.put(cluster.Attachment{TaskID: "old", ContainerID: "c1", NetworkID: "teamid", Addr: netip.MustParseAddr("10.9.0.21")})
		next := begin(t, host, s)
		s.tell(next)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if held := s.holds(); len(held) != 1 || held["lost"].TaskID+held["old"].TaskID != "" {
			t.Errorf("the swarm holds %v", s.holds())
		}
	})
}

// TestAPlaceIsKeptWhileNoManagerAnswers: nobody can have given the address to another one.
func TestAPlaceIsKeptWhileNoManagerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fake.Network{}
		s := newSwarm(host)
		a := begin(t, host, s)
		first, err := a.Attach(t.Context(), "c1", on("team"))
		if err != nil {
			t.Fatal(err)
		}
		s.leave(attach.ErrAway)
		if err := a.Detach(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		again, err := a.Attach(t.Context(), "c1", on("team"))
		if err != nil || again.On("team").Addr != first.On("team").Addr {
			t.Errorf("%v %v", again, err)
		}
	})
}
