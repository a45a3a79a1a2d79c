package httpapi_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

// TestNetworks is the real client against every route of networks.
func TestNetworks(t *testing.T) {
	nets := &apitest.Networks{}
	c, ctx := dial(t, httpapi.New(httpapi.Config{Networks: nets, Version: "1"}))
	made, err := c.NetworkCreate(ctx, "mine", client.NetworkCreateOptions{
		Driver: "bridge", Internal: true, Labels: map[string]string{"a": "b"},
		IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.1.0.0/16"), IPRange: netip.MustParsePrefix("10.1.2.0/24")}}},
	})
	if err != nil || len(made.ID) != 64 {
		t.Fatal(made, err)
	}
	i, err := c.NetworkInspect(ctx, "mine", client.NetworkInspectOptions{})
	if n := i.Network; err != nil || n.ID != made.ID || !n.Internal || n.Labels["a"] != "b" || n.IPAM.Config[0].Gateway != netip.MustParseAddr("10.1.0.1") ||
		n.Status.IPAM.Subnets[netip.MustParsePrefix("10.1.0.0/16")].DynamicIPsAvailable != 256 {
		t.Errorf("%+v, %v", i, err)
	}
	list, err := c.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("label", "a=b").Add("type", "custom").Add("dangling", "true")})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "mine" {
		t.Errorf("%+v, %v", list, err)
	}
	settings := &network.EndpointSettings{Aliases: []string{"web"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.1.2.9")}}
	if _, err := c.NetworkConnect(ctx, "mine", client.NetworkConnectOptions{Container: "box", EndpointConfig: settings}); err != nil {
		t.Error(err)
	}
	if nets.Last == nil || !slices.Equal(nets.Last.Aliases, settings.Aliases) || nets.Last.IPAMConfig.IPv4Address != settings.IPAMConfig.IPv4Address {
		t.Errorf("settings %+v", nets.Last)
	}
	if _, err := c.NetworkDisconnect(ctx, "mine", client.NetworkDisconnectOptions{Container: "box", Force: true}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"connect mine box", "disconnect mine box true"}, nets.Noted); d != "" {
		t.Error(d)
	}
	if _, err := c.NetworkRemove(ctx, "mine", client.NetworkRemoveOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.NetworkCreate(ctx, "other", client.NetworkCreateOptions{}); err != nil {
		t.Error(err)
	}
	pruned, err := c.NetworkPrune(ctx, client.NetworkPruneOptions{})
	if d := cmp.Diff([]string{"other"}, pruned.Report.NetworksDeleted); err != nil || d != "" {
		t.Errorf("%v: %s", err, d)
	}
}
