package agent

import (
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// taskOn is a task with an address on each of the networks; those in targets its specification names.
func taskOn(targets []string, attached map[string]string) *cluster.Task {
	t := &cluster.Task{}
	for _, id := range targets {
		t.Spec.Networks = append(t.Spec.Networks, swarm.NetworkAttachmentConfig{Target: id, Aliases: []string{"alias-" + id}})
	}
	for id, addr := range attached {
		t.NetworksAttachments = append(t.NetworksAttachments, swarm.NetworkAttachment{
			Network: swarm.Network{ID: id}, Addresses: []netip.Prefix{netip.MustParsePrefix(addr)},
		})
	}
	return t
}

func TestWhichNetworksAContainerIsOn(t *testing.T) {
	known := []*network.Overlay{{ID: "a"}, {ID: "in", Internal: true}, {ID: "in2", Internal: true}}
	for _, tc := range []struct {
		name     string
		targets  []string
		attached map[string]string
		mode     container.NetworkMode
		ingress  string
		on       map[string]string
	}{
		{"none", nil, nil, "", "", nil},
		{"the mesh only", nil, map[string]string{"mesh": "10.255.0.9/16"}, "", "10.255.0.9", nil},
		{"one", []string{"a"}, map[string]string{"a": "10.1.0.5/24"}, "", "", map[string]string{"a": "10.1.0.5"}},
		{"one and the mesh", []string{"a"}, map[string]string{"a": "10.1.0.5/24", "mesh": "10.255.0.9/16"}, "", "10.255.0.9", map[string]string{"a": "10.1.0.5"}},
		{"internal ones only", []string{"in", "in2"}, map[string]string{"in": "10.2.0.5/24", "in2": "10.3.0.5/24"}, "in", "", map[string]string{"in": "10.2.0.5", "in2": "10.3.0.5"}},
		{"an internal one and another", []string{"in", "a"}, map[string]string{"in": "10.2.0.5/24", "a": "10.1.0.5/24"}, "", "", map[string]string{"in": "10.2.0.5", "a": "10.1.0.5"}},
		{"an internal one and the mesh", []string{"in"}, map[string]string{"in": "10.2.0.5/24", "mesh": "10.255.0.9/16"}, "", "10.255.0.9", map[string]string{"in": "10.2.0.5"}},
		{"the host's", []string{cluster.HostNetwork}, nil, "", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := taskOn(tc.targets, tc.attached)
			s := engine.Spec{HostConfig: &container.HostConfig{}, Ingress: meshAddr(k)}
			join(k, &s, known)
			if got := s.Ingress; tc.ingress == "" && got.IsValid() || tc.ingress != "" && got.String() != tc.ingress {
				t.Errorf("on the mesh at %v, want %q", got, tc.ingress)
			}
			if s.HostConfig.NetworkMode != tc.mode {
				t.Errorf("network mode %q, want %q", s.HostConfig.NetworkMode, tc.mode)
			}
			if len(s.Networks) != len(tc.on) {
				t.Fatalf("on %v, want %v", s.Networks, tc.on)
			}
			for id, addr := range tc.on {
				e := s.Networks[id]
				if e == nil || e.IPAMConfig.IPv4Address.String() != addr || len(e.Aliases) != 1 || e.Aliases[0] != "alias-"+id {
					t.Errorf("on %s: %+v", id, e)
				}
			}
		})
	}
}
