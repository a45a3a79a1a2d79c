package fake_test

import (
	"errors"
	"net/netip"
	"testing"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/fake"
	"shoal.dev/shoal/internal/network/networktest"
)

func TestSuite(t *testing.T) {
	networktest.Run(t, func(*testing.T) networktest.Network { return &fake.Network{} })
}

func TestFake(t *testing.T) {
	n := &fake.Network{}
	a := netip.MustParseAddr("10.0.0.5")
	if _, err := n.Attach(t.Context(), "c", engine.Attachment{Ingress: a}); err != nil {
		t.Fatal(err)
	}
	if got, ok := n.Ingress("c"); !ok || got != a {
		t.Error(got, ok)
	}
	broken := errors.New("broken")
	n.Fail(broken)
	if err := n.Apply(t.Context(), network.Desired{Version: 7}); !errors.Is(err, broken) {
		t.Error(err)
	}
	n.Fail(nil)
	if err := n.Apply(t.Context(), network.Desired{Version: 8}); err != nil {
		t.Error(err)
	}
	if d, times := n.Desired(); d.Version != 8 || times != 1 {
		t.Error(d, times)
	}
}
