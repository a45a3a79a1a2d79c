package containerd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network/overlay"
)

// hostNet gives the engine, for the time of the test, the network of a host: a real one, in a namespace of its own.
func (l *lab) hostNet(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the program nft")
	}
	name := fmt.Sprintf("shoalt-engine-%d", os.Getpid())
	for _, argv := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", argv...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q: %v: %s", argv, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	dir := t.TempDir()
	k, err := overlay.Open(t.Context(), overlay.Config{StateDir: filepath.Join(dir, "state"), NetnsDir: filepath.Join(dir, "netns"), NetNS: "/run/netns/" + name, Log: l.engine.cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	was := l.engine.cfg.Sandboxes
	l.engine.cfg.Sandboxes = k
	t.Cleanup(func() {
		l.engine.cfg.Sandboxes = was
		if err := k.Down(context.Background()); err != nil {
			t.Error(err)
		}
		_ = k.Close()
	})
}

// TestHostNetworks is containers that find and reach each other by name, with the real network beneath them.
func TestHostNetworks(t *testing.T) {
	l := real(t)
	l.hostNet(t)
	ctx := t.Context()
	for _, n := range []string{"front", "back"} {
		if _, err := l.engine.CreateNetwork(ctx, network.CreateRequest{Name: n}); err != nil {
			t.Fatal(err)
		}
	}
	start := func(name, mode string, on map[string]*network.EndpointSettings, cmd string) string {
		t.Helper()
		id := l.made(t, engine.Spec{Name: name, Config: &container.Config{Cmd: []string{"sh", "-c", cmd}}, HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(mode)}, Networks: on})
		if err := l.engine.Start(ctx, id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	const serve = "mkdir -p /tmp/www && hostname > /tmp/www/index.html && exec httpd -f -p 80 -h /tmp/www"
	web := start("web", "front", map[string]*network.EndpointSettings{"front": {Aliases: []string{"www"}}}, serve)
	start("db", "back", nil, serve)
	in := func(name, cmd string) string {
		t.Helper()
		out, code := l.run(t, name, container.ExecCreateRequest{Cmd: []string{"sh", "-c", cmd}}, engine.ExecStart{}, nil)
		return strings.TrimSpace(fmt.Sprintf("%d %s", code, out))
	}
	client := start("client", "front", nil, "exec sleep 1000")
	is := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q; want %q", what, got, want)
		}
	}
	until := func(what, cmd, want string) {
		t.Helper()
		got := ""
		if !poll(10*time.Second, func() bool { got = in("client", cmd); return got == want }) {
			t.Errorf("%s: %q; want %q", what, got, want)
		}
	}
	fetch := func(name string) string { // Debian's static busybox has a wget that crashes
		return fmt.Sprintf(`printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 %s 80 2>/dev/null | tail -n 1`, name)
	}
	for _, name := range []string{"web", "www", "WEB", "web.front", web[:12]} {
		until("by "+name, fetch(name), "0 "+web[:12])
	}
	is("ping", in("client", "ping -c 1 -W 2 www > /dev/null && echo fine"), "0 fine")
	is("resolv.conf", in("client", "grep -c 'nameserver 127.0.0.11' /etc/resolv.conf; grep -c ndots:0 /etc/resolv.conf"), "0 1\n1")
	is("db is on another network", in("client", fetch("db")), "0")
	if err := l.engine.Connect(ctx, "back", "client", nil); err != nil {
		t.Fatal(err)
	}
	until("connected", fetch("db")+" | wc -c", "0 13")
	is("interfaces", in("client", "ls /sys/class/net"), "0 eth0\neth1\nlo")
	i, err := l.engine.Inspect(ctx, client)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"front", "back"} {
		e := i.NetworkSettings.Networks[n]
		is("/etc/hosts", in("client", "grep -c '"+e.IPAddress.String()+"' /etc/hosts"), "0 1")
		if !slices.Equal(e.DNSNames, []string{"client", client[:12]}) {
			t.Errorf("names on %s: %q", n, e.DNSNames)
		}
	}
	if err := l.engine.Rename(ctx, "web", "shop"); err != nil {
		t.Fatal(err)
	}
	is("renamed", in("client", fetch("shop")), "0 "+web[:12])
	if err := l.engine.Disconnect(ctx, "front", "client", false); err != nil {
		t.Fatal(err)
	}
	is("disconnected", in("client", fetch("shop")), "0")
	is("the other network stays", in("client", fetch("db")+" | wc -c"), "0 13")
	if err := l.engine.Restart(ctx, "client", engine.StopOptions{Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	until("after a restart", fetch("db")+" | wc -c", "0 13")
	is("one interface", in("client", "ls /sys/class/net"), "0 eth0\nlo")

	// A name server of the container's own, and a fixed address.
	fixed := netip.MustParseAddr("172.19.0.99")
	if i, err := l.engine.cfg.Sandboxes.FindNetwork("back"); err == nil {
		fixed = netip.AddrFrom4([4]byte{172, i.IPAM.Config[0].Subnet.Addr().As4()[1], 0, 99})
	}
	start("fixed", "back", map[string]*network.EndpointSettings{"back": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: fixed}, MacAddress: network.HardwareAddr(net.HardwareAddr{2, 0, 0, 0, 0, 7})}}, "exec sleep 1000")
	is("address", in("fixed", "ip -o addr show eth0 | grep -c '"+fixed.String()+"/16'; cat /sys/class/net/eth0/address"), "0 1\n02:00:00:00:00:07")
	is("by its name", in("client", "ping -c 1 -W 2 fixed | grep -c "+fixed.String()+": || ping -c 1 -W 2 fixed"), "0 1")
}
