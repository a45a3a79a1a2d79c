package swarm

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/control"
)

const (
	// slots is how many services clients work on at the same time, turn how many requests a name gets before the next
	// one takes its place: an order is searched for among a name's requests.
	slots = 4
	turn  = 60
	// patience is how long a client waits.
	patience = 15 * time.Second
)

// load is the clients' work.
type load struct {
	w       *world
	count   [slots]atomic.Int64
	paused  atomic.Bool
	end     chan struct{}
	clients sync.WaitGroup
}

// client works at one host until the load ends.
func (l *load) client(n int, h *host) {
	rng := rand.New(rand.NewPCG(l.w.seed, uint64(n)))
	for i := 0; ; i++ {
		select {
		case <-time.After(between(rng, 20*time.Millisecond, 500*time.Millisecond)):
		case <-l.end:
			return
		}
		slot, what, fresh := rng.IntN(slots), rng.IntN(100), fmt.Sprintf("%d.%d", n, i)
		replicas := uint64(rng.IntN(3))
		if l.paused.Load() || h.alive() == nil {
			continue
		}
		name := l.name(slot)
		switch {
		case what < 30:
			l.inspect(n, h, name)
		case what < 55:
			l.create(n, h, name, fresh, replicas)
		case what < 88:
			// An update names the version that it read, as clients do.
			spec, version, ok := l.inspect(n, h, name)
			if !ok {
				continue
			}
			if what < 60 {
				select { // another one may come between
				case <-time.After(between(rng, 0, 300*time.Millisecond)):
				case <-l.end:
					return
				}
			}
			l.update(n, h, name, spec, version, fresh, replicas)
		default:
			l.remove(n, h, name)
		}
	}
}

func (l *load) name(slot int) string {
	return fmt.Sprintf("s%d-%d", slot, l.count[slot].Add(1)/turn)
}

const valueLabel = "value"

func (l *load) spec(name, value string, replicas uint64) swarm.ServiceSpec {
	s := swarm.ServiceSpec{}
	s.Name, s.Labels = name, map[string]string{valueLabel: value}
	s.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: image, Args: []string{"sleep"}}
	delay := time.Second
	s.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: &delay}
	s.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
	s.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP, Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishMode: swarm.PortConfigPublishModeIngress}}}
	return s
}

const image = "hello:1@sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

// ask makes a request and says what its answer means. ok is false where the answer says that nothing was done.
func (l *load) ask(h *host, method, path string, body any) (answer, result, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := h.ask(ctx, method, path, body)
	if err != nil {
		return a, unknown, true
	}
	text := a.message()
	switch {
	case a.status < 300:
		return a, done, true
	case a.status == http.StatusNotFound:
		return a, missing, true
	case a.status == http.StatusConflict:
		return a, taken, true
	case strings.Contains(text, "update out of sequence") && a.status == http.StatusInternalServerError && !strings.Contains(text, ":"):
		return a, passed, true
	case strings.HasPrefix(text, control.NoLeader), text == control.NotManager, text == control.NotInSwarm, a.status == http.StatusForbidden:
		l.w.hist.mu.Lock()
		l.w.hist.refused++
		l.w.hist.mu.Unlock()
		return a, unknown, false
	}
	return a, unknown, true
}

func (l *load) record(n int, h *host, name string, call int64, in input, out output) {
	l.w.hist.end(n, h.name, name, call, in, out)
}

func (l *load) create(n int, h *host, name, value string, replicas uint64) {
	call := l.w.hist.begin()
	if _, r, ok := l.ask(h, http.MethodPost, "/services/create", l.spec(name, value, replicas)); ok {
		l.record(n, h, name, call, input{kind: create, value: value}, output{result: r})
	}
}

func (l *load) inspect(n int, h *host, name string) (spec swarm.ServiceSpec, version uint64, ok bool) {
	call := l.w.hist.begin()
	a, r, ok := l.ask(h, http.MethodGet, "/services/"+name, nil)
	switch {
	case !ok:
		return spec, 0, false
	case a.stale:
		l.w.hist.mu.Lock()
		l.w.hist.stale++
		l.w.hist.mu.Unlock()
		return spec, 0, false
	case r != done:
		l.record(n, h, name, call, input{kind: inspect}, output{result: r})
		return spec, 0, false
	}
	var s swarm.Service
	if err := json.Unmarshal(a.body, &s); err != nil {
		l.w.violate("reading service %s: %v", name, err)
		return spec, 0, false
	}
	value := s.Spec.Labels[valueLabel]
	l.record(n, h, name, call, input{kind: inspect}, output{done, value})
	if err := l.w.hist.saw(s.ID, s.Version.Index, value); err != nil {
		l.w.violate("%v", err)
	}
	return s.Spec, s.Version.Index, true
}

func (l *load) update(n int, h *host, name string, old swarm.ServiceSpec, version uint64, value string, replicas uint64) {
	call := l.w.hist.begin()
	if _, r, ok := l.ask(h, http.MethodPost, fmt.Sprintf("/services/%s/update?version=%d", name, version), l.spec(name, value, replicas)); ok {
		l.record(n, h, name, call, input{kind: update, value: value, expect: old.Labels[valueLabel]}, output{result: r})
	}
}

func (l *load) remove(n int, h *host, name string) {
	call := l.w.hist.begin()
	if _, r, ok := l.ask(h, http.MethodDelete, "/services/"+name, nil); ok {
		l.record(n, h, name, call, input{kind: remove}, output{result: r})
	}
}

// work starts a client at every host.
func (w *world) work() *load {
	l := &load{w: w, end: make(chan struct{})}
	for i, h := range w.hosts {
		l.clients.Go(func() { l.client(i+1, h) })
	}
	return l
}

// stop ends the load and waits for its last answers.
func (l *load) stop() {
	close(l.end)
	l.clients.Wait()
}

// finally reads every service that there ever was through every manager.
func (l *load) finally() {
	for slot := range slots {
		for n := range l.count[slot].Load()/turn + 1 {
			for i, h := range l.w.hosts {
				l.inspect(i+1, h, fmt.Sprintf("s%d-%d", slot, n))
			}
		}
	}
}
