package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"shoal.dev/shoal/internal/network/firewall"
)

const (
	// dialTimeout bounds the look at one peer.
	dialTimeout = 3 * time.Second
	// refusal is how long a peer's kernel has to say that nobody takes tunnels there.
	refusal = 300 * time.Millisecond
	// vxlanOverhead is what a tunnel adds to a packet, in bytes (RFC 7348 over IPv4).
	vxlanOverhead = 50
	// minMTU is what IPv6 and many a program want of a link, in bytes (RFC 8200).
	minMTU = 1280
)

func (h *Host) ports(_ context.Context, f *Facts) []Finding {
	var all []Finding
	swarm := fmt.Sprintf("port %d/tcp", f.Port)
	owner, held := h.Owner("tcp", netip.IPv4Unspecified(), f.Port)
	switch {
	case !held && f.Member:
		all = append(all, one(swarm, OK, "", "free: this node is a worker, which needs none")...)
	case !held:
		all = append(all, one(swarm, OK, "", "free")...)
	case strings.HasPrefix(owner, "process shoald "):
		all = append(all, one(swarm, OK, "", "held by shoald")...)
	default:
		all = append(all, one(swarm, Failure, fmt.Sprintf("ss -ltnp 'sport = :%d'", f.Port),
			"held by %s: 'swarm init' and 'swarm join' as a manager need it, or another one by --listen-addr", cmp.Or(owner, "a process that cannot be seen from here"))...)
	}
	tunnels := fmt.Sprintf("port %d/udp", f.Tunnels)
	owner, held = h.Owner("udp", netip.IPv4Unspecified(), f.Tunnels)
	switch {
	case !held:
		all = append(all, one(tunnels, OK, "", "free")...)
	case owner == "":
		// Tunnels of several programs share the kernel's socket; they differ in their network identifiers.
		all = append(all, one(tunnels, OK, "", "held by the kernel, for tunnels")...)
	default:
		all = append(all, one(tunnels, Failure, fmt.Sprintf("ss -lunp 'sport = :%d'", f.Tunnels), "held by %s: no tunnels to other nodes, or another port by 'swarm init --data-path-port'", owner)...)
	}
	return all
}

func (h *Host) firewall(ctx context.Context, f *Facts) []Finding {
	const check = "firewall"
	if !h.Superuser {
		return one(check, Warning, "sudo shoal doctor", "only root may read the packet filter")
	}
	nft := func(ctx context.Context, input string, args ...string) ([]byte, error) {
		return h.Run(ctx, input, "nft", args...)
	}
	rules, err := firewall.Read(ctx, nft)
	if err != nil {
		return one(check, Warning, "nft list ruleset", "%s", err)
	}
	var all []Finding
	for _, o := range rules.Obstacles(h.Question(f)) {
		level := Failure
		if o.Possible {
			level = Warning
		}
		all = append(all, one(check, level, o.Remedy, "%s", o.String())...)
	}
	if legacy, _ := h.read("proc/net/ip_tables_names"); strings.Contains(legacy, "filter") {
		all = append(all, one(check, Warning, "iptables-legacy -S FORWARD", "there are rules of iptables-legacy, which cannot be read here: look whether they let packets of shoal+ through")...)
	}
	switch {
	case len(all) > 0:
		return all
	case f.Managed:
		return one(check, OK, "", `nobody drops what is forwarded; "firewall" is "manage"`)
	}
	return one(check, OK, "", "nobody drops what is forwarded")
}

func (h *Host) forwarding(_ context.Context, f *Facts) []Finding {
	const name, remedy = "net.ipv4.ip_forward", "sysctl -w net.ipv4.ip_forward=1"
	var all []Finding
	switch v, ok := h.read("proc/sys/net/ipv4/ip_forward"); {
	case v == "1":
		all = one("ip_forward", OK, "", "%s is 1", name)
	case ok && !f.Running:
		all = one("ip_forward", OK, "", "%s is %s; shoald turns it on", name, v)
	case ok:
		all = one("ip_forward", Failure, remedy, "%s is %s, though shoald turns it on: containers reach nothing, and nothing reaches them. Something turns it off again", name, v)
	default:
		all = one("ip_forward", Failure, remedy, "%s cannot be read", name)
	}
	const bridge = "net.bridge.bridge-nf-call-iptables"
	switch v, ok := h.read("proc/sys/net/bridge/bridge-nf-call-iptables"); {
	case !ok:
		return append(all, one("bridge-nf-call", OK, "", "br_netfilter is not loaded: frames between containers of a host are not filtered")...)
	case v == "1":
		return append(all, one("bridge-nf-call", OK, "", "%s is 1: frames between containers of a host pass its packet filter, where Shoal lets them through; see firewall", bridge)...)
	default:
		return append(all, one("bridge-nf-call", OK, "", "%s is %s", bridge, v)...)
	}
}

// The parts of the table of connections, in percent, from which it is said that it fills up, and that it is full for bursts.
const (
	conntrackHigh = 75
	conntrackFull = 95
)

func (h *Host) conntrack(context.Context, *Facts) []Finding {
	const check = "conntrack"
	number := func(name string) int {
		text, _ := h.read("proc/sys/net/netfilter/" + name)
		n, _ := strconv.Atoi(text)
		return n
	}
	count, limit := number("nf_conntrack_count"), number("nf_conntrack_max")
	if limit <= 0 {
		return one(check, OK, "", "no limit of connections, or nobody has followed one yet")
	}
	used := count * 100 / limit
	level := OK
	switch {
	case used >= conntrackFull:
		level = Failure
	case used >= conntrackHigh:
		level = Warning
	default:
		return one(check, OK, "", "%d of %d connections", count, limit)
	}
	return one(check, level, fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*limit), "%d of %d connections, %d %%: when all are used, new ones are dropped", count, limit, used)
}

// uplink is the interface of the default route; "" if there is none.
func (h *Host) uplink() string {
	text, ok := h.read("proc/thread-self/net/route")
	if !ok {
		text, _ = h.read("proc/net/route")
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return f[0]
		}
	}
	return ""
}

func (h *Host) mtu(context.Context, *Facts) []Finding {
	const check = "MTU"
	name := h.uplink()
	if name == "" {
		return one(check, OK, "", "there is no default route whose interface would carry tunnels")
	}
	under, err := h.MTU(name)
	if err != nil {
		return one(check, Warning, "ip link show "+name, "that of %s cannot be read: %s", name, err)
	}
	room := under - vxlanOverhead
	if room < minMTU {
		return one(check, Warning, fmt.Sprintf("ip link set %s mtu 1500", name), "%s has %d bytes and leaves %d for networks over several nodes, fewer than %d", name, under, room, minMTU)
	}
	if tunnel, err := h.MTU("shoal-vx"); err == nil && tunnel > room {
		return one(check, Failure, fmt.Sprintf("ip link set shoal-vx mtu %d", room), "%s has %d bytes and leaves %d for tunnels, but shoal-vx has %d: large packets are lost", name, under, room, tunnel)
	}
	return one(check, OK, "", "%s has %d bytes, which leaves %d for networks over several nodes", name, under, room)
}

// peers looks whether other nodes can be reached.
func (h *Host) peers(ctx context.Context, f *Facts) []Finding {
	found := make([][]Finding, len(f.Peers))
	done := make(chan struct{})
	for i, p := range f.Peers {
		go func() {
			defer func() { done <- struct{}{} }()
			found[i] = h.peer(ctx, p, f)
		}()
	}
	var all []Finding
	for range f.Peers {
		<-done
	}
	for _, p := range found {
		all = append(all, p...)
	}
	return all
}

func (h *Host) peer(ctx context.Context, peer string, f *Facts) []Finding {
	host, port, err := net.SplitHostPort(peer)
	if err != nil {
		host, port = peer, strconv.Itoa(int(f.Port))
	}
	check := "peer " + host
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+refusal)
	defer cancel()
	began := time.Now()
	c, err := h.Dial(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		why, remedy := err.Error(), "ping -c 3 "+host
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			why, remedy = "refused: no manager listens there", fmt.Sprintf("ssh %s shoal doctor", host)
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), isTimeout(err):
			why = "no answer: a packet filter between, or the host is off"
		}
		return one(check, Failure, remedy, "%s/tcp: %s", port, why)
	}
	took := time.Since(began).Round(100 * time.Microsecond)
	_ = c.Close()
	tunnels := strconv.Itoa(int(f.Tunnels))
	if h.refuses(ctx, net.JoinHostPort(host, tunnels)) {
		return one(check, Warning, fmt.Sprintf("ssh %s shoal doctor", host), "%s/tcp: connected within %s; %s/udp: refused: the node is in no swarm, or has no network over several nodes yet", port, took, tunnels)
	}
	return one(check, OK, "", "%s/tcp: connected within %s; %s/udp: not refused", port, took, tunnels)
}

// refuses says whether a host's kernel says that nobody takes tunnels there. What is sent is a VXLAN header without the flag
// that makes it one, which every receiver drops.
func (h *Host) refuses(ctx context.Context, addr string) bool {
	c, err := h.Dial(ctx, "udp", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 8)); err != nil {
		return false
	}
	if err := c.SetReadDeadline(time.Now().Add(refusal)); err != nil {
		return false
	}
	_, err = c.Read(make([]byte, 1))
	return errors.Is(err, syscall.ECONNREFUSED)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
