package control_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
)

// TestPrivilegesAreTheSwarmsToGive asks for devices and privileges while the swarm's setting is off, on and off again.
func TestPrivilegesAreTheSwarmsToGive(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	with := func(name string, replicas uint64, label, value string) swarm.ServiceSpec {
		sp := spec(name, replicas)
		if label != "" {
			sp.Labels = map[string]string{label: value}
		}
		return sp
	}
	allow := func(v string) {
		t.Helper()
		sw := s.Snapshot().Swarm()
		sp := sw.Spec
		sp.Labels = map[string]string{cluster.LabelAllowPrivileged: v}
		if err := c.UpdateSwarm(t.Context(), sw.Version.Index, sp, control.RotateFlags{}); err != nil {
			t.Fatal(err)
		}
	}
	create := func(sp swarm.ServiceSpec) error {
		_, err := c.CreateService(t.Context(), sp, "", false)
		return err
	}
	update := func(sp swarm.ServiceSpec, o control.UpdateOptions) error {
		svc, ok := s.Snapshot().ServiceByName(sp.Name)
		if !ok {
			t.Fatal(sp.Name)
		}
		_, err := c.UpdateService(t.Context(), sp.Name, svc.Version.Index, sp, o)
		return err
	}
	refused := func(what string, err error, text string) {
		t.Helper()
		if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "shoal.allow-privileged") || !strings.Contains(err.Error(), "shoal swarm update --allow-privileged") {
			t.Errorf("%s: %v", what, err)
		}
	}
	done := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	mustCreate(t, c, spec("plain", 1))
	before := s.Index()
	refused("privileged", create(with("web", 1, cluster.LabelPrivileged, "true")), "service web asks for privileged containers (label shoal.privileged)")
	refused("a device", create(with("web", 1, cluster.LabelDevices, "/dev/fuse")), "service web asks for devices of its nodes (label shoal.devices)")
	refused("an update", update(with("plain", 1, cluster.LabelPrivileged, "true"), control.UpdateOptions{}), "service plain asks for privileged")
	if err := create(with("web", 1, cluster.LabelDevices, "fuse")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a malformed device: %v", err)
	}
	if s.Index() != before {
		t.Error("a refusal wrote something")
	}
	allow("true")
	done("privileged, allowed", create(with("web", 2, cluster.LabelPrivileged, "true")))
	done("a device, allowed", update(with("plain", 1, cluster.LabelDevices, "/dev/fuse"), control.UpdateOptions{}))
	done("and away", update(with("plain", 1, "", ""), control.UpdateOptions{}))
	allow("false")
	done("scaled down", update(with("web", 1, cluster.LabelPrivileged, "true"), control.UpdateOptions{}))
	refused("back to what is not allowed any more", update(with("plain", 1, "", ""), control.UpdateOptions{Rollback: "previous"}), "service plain asks for devices")
	done("given up", update(with("web", 1, "", ""), control.UpdateOptions{}))
	refused("asked for again", update(with("web", 1, cluster.LabelPrivileged, "true"), control.UpdateOptions{}), "service web asks for privileged")
}
