// Package swarm is a whole swarm in memory: daemons as package node wires them, with their own Raft, store, runner,
// dispatcher and agent, on engines and kernels that are fakes, over a network that a seed disturbs.
package swarm

import (
	"context"
	"log/slog"
	"time"

	"shoal.dev/shoal/internal/sim"
)

// Options says how a run goes.
type Options struct {
	Dir string // for the hosts' disks
	Log *slog.Logger
}

type Stats struct{ Entries int }
type history struct{}

func spike(seed uint64, o Options) (*world, error) {
	w := &world{o: o, seed: seed, start: time.Now(), net: newFabric(seed), log: map[uint64][32]byte{}}
	w.audit = sim.NewAudit(func(s string) { w.noteLocked(s) }, w.violateLocked)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.net.run(ctx) }()
	defer func() { cancel(); <-done }()
	for i := range 5 {
		h := newHost(w, i+1)
		w.hosts = append(w.hosts, h)
		h.start()
	}
	defer func() {
		for _, h := range w.hosts {
			h.stop()
			h.engine.Close()
		}
	}()
	if err := w.init(w.hosts[0]); err != nil {
		return w, err
	}
	for i, h := range w.hosts[1:] {
		if err := w.join(h, i < 2, w.hosts[0]); err != nil {
			return w, err
		}
	}
	w.note("all joined")
	time.Sleep(60 * time.Second)
	w.note("slept")
	return w, nil
}
