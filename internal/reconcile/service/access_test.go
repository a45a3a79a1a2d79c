package service_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

// TestNewDevicesAreAnUpdate changes the labels of a service that runs.
func TestNewDevicesAreAnUpdate(t *testing.T) {
	r := newRollout(t, 2, swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second})
	before := r.Tasks("web")
	label := func(labels map[string]string) {
		plantest.Change(r.Swarm, "web", func(s *cluster.Service) { s.Spec.Labels = labels })
		r.rest()
		for range 4 {
			r.turn("")
		}
	}
	label(map[string]string{"a": "b"})
	if d := cmp.Diff(len(before), len(r.Tasks("web"))); d != "" {
		t.Errorf("a label that means nothing made tasks: %s", d)
	}
	label(map[string]string{cluster.LabelDevices: "/dev/fuse"})
	running := 0
	for _, k := range r.Tasks("web") {
		if k.WantsToRun() {
			running++
			if k.Access == nil || len(k.Access.Devices) != 1 {
				t.Errorf("task %s has %+v", k.ID, k.Access)
			}
		}
	}
	if running != 2 {
		t.Errorf("%d tasks run", running)
	}
}
