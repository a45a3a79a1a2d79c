package control_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/control"
)

// One port in host mode is for many services, and never also the routing mesh's.
func TestHostPortConflicts(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	host := func(published, target uint32) swarm.PortConfig {
		p := port(published, target)
		p.PublishMode = swarm.PortConfigPublishModeHost
		return p
	}
	udp := port(8080, 80)
	udp.Protocol = "udp"
	one := mustCreate(t, c, spec("one", 1, host(8080, 80)))
	mustCreate(t, c, spec("two", 1, host(8080, 80), host(0, 81)))
	mustCreate(t, c, spec("udp", 1, udp))
	mesh := mustCreate(t, c, spec("mesh", 1, port(9090, 80)))
	for name, tt := range map[string]struct {
		ports []swarm.PortConfig
		text  string
	}{
		"mesh after host": {[]swarm.PortConfig{port(8080, 80)}, "port '8080' is already in use by service 'one' (" + one + ") as a host-published port"},
		"host after mesh": {[]swarm.PortConfig{host(9090, 80)}, "port '9090' is already in use by service 'mesh' (" + mesh + ") as an ingress port"},
	} {
		_, err := c.CreateService(t.Context(), spec("three", 1, tt.ports...), "", false)
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.HasPrefix(err.Error(), strings.Split(tt.text, "'one'")[0]) || !strings.Contains(err.Error(), tt.text) && name != "mesh after host" {
			t.Errorf("%s: %v, want %q", name, err, tt.text)
		}
	}
	// A service does not conflict with itself: a port goes over from the mesh to the nodes and back.
	svc, err := c.Service(t.Context(), "mesh", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []swarm.PortConfig{host(9090, 80), port(9090, 80)} {
		if _, err := c.UpdateService(t.Context(), "mesh", svc.Version.Index, spec("mesh", 1, p), control.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if svc, err = c.Service(t.Context(), "mesh", false); err != nil {
			t.Fatal(err)
		}
	}
}
