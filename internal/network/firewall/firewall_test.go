package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// host is a network namespace with rules of other programs in it.
type host struct {
	t    *testing.T
	name string
}

var hosts atomic.Int64

func newHost(t *testing.T, needs ...string) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	for _, p := range append(needs, "nft", "ip", "nsenter") {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs the program %s", p)
		}
	}
	h := &host{t, fmt.Sprintf("shoalt-fw-%d-%d", os.Getpid(), hosts.Add(1))}
	if out, err := exec.Command("ip", "netns", "add", h.name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.name).Run() })
	return h
}

func (h *host) in(ctx context.Context, input string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + h.name}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// sh runs lines in the namespace and gives what they print.
func (h *host) sh(script string) string {
	h.t.Helper()
	out, err := h.in(h.t.Context(), "", "sh", "-ec", script)
	if err != nil {
		h.t.Fatalf("%s: %v", script, err)
	}
	return string(out)
}

func (h *host) nft(ctx context.Context, input string, args ...string) ([]byte, error) {
	return h.in(ctx, input, append([]string{"nft"}, args...)...)
}

func (h *host) obstacles(q Question) []Obstacle {
	h.t.Helper()
	r, err := Read(h.t.Context(), h.nft)
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Obstacles(q)
}

// The rules of other programs, as they put them.
const (
	dockerd = `
iptables-nft -P FORWARD DROP
for c in DOCKER-USER DOCKER-FORWARD DOCKER-BRIDGE DOCKER-CT DOCKER; do iptables-nft -N $c; done
iptables-nft -A DOCKER-USER -j RETURN
iptables-nft -A FORWARD -j DOCKER-USER
iptables-nft -A FORWARD -j DOCKER-FORWARD
iptables-nft -A DOCKER-FORWARD -j DOCKER-CT
iptables-nft -A DOCKER-FORWARD -j DOCKER-BRIDGE
iptables-nft -A DOCKER-FORWARD -i docker0 -j ACCEPT
iptables-nft -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A DOCKER-BRIDGE -o docker0 -j DOCKER
iptables-nft -A DOCKER ! -i docker0 -o docker0 -j DROP
`
	ufw = `
for c in INPUT FORWARD; do iptables-nft -P $c DROP; done
for c in ufw-before-input ufw-user-input ufw-before-forward ufw-user-forward ufw-after-logging-forward ufw-reject-forward; do iptables-nft -N $c; done
iptables-nft -A INPUT -j ufw-before-input
iptables-nft -A ufw-before-input -i lo -j ACCEPT
iptables-nft -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A ufw-before-input -m conntrack --ctstate INVALID -j DROP
iptables-nft -A ufw-before-input -j ufw-user-input
iptables-nft -A ufw-user-input -p tcp --dport 22 -j ACCEPT
iptables-nft -A FORWARD -j ufw-before-forward
iptables-nft -A FORWARD -j ufw-after-logging-forward
iptables-nft -A FORWARD -j ufw-reject-forward
iptables-nft -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A ufw-before-forward -p icmp --icmp-type echo-request -j ACCEPT
iptables-nft -A ufw-before-forward -j ufw-user-forward
iptables-nft -A ufw-after-logging-forward -m limit --limit 3/min -j LOG --log-prefix "[UFW BLOCK] "
`
	firewalld = `nft -f - <<'X'
table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_INPUT_ZONES { goto filter_IN_public; }
	chain filter_IN_public { jump filter_IN_public_allow; meta l4proto { icmp, ipv6-icmp } accept; }
	chain filter_IN_public_allow { tcp dport 22 accept; }
	chain filter_FORWARD {
		type filter hook forward priority 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_ZONES { iifname "eth0" goto filter_FWD_public; goto filter_FWD_public; }
	chain filter_FWD_public { meta l4proto { icmp, ipv6-icmp } accept; }
}
X
`
	own = `nft 'table inet filter { chain forward { type filter hook forward priority 0; policy drop; ct state vmap { established : accept, related : accept, invalid : drop } ; }; }'
`
	kubeProxy = `nft -f - <<'X'
table ip kube-proxy {
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	chain filter-forward { type filter hook forward priority -110; policy accept; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }
	chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @service-ips; }
	chain cluster-ips-check { ip daddr 10.96.0.0/12 reject; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; }
}
X
iptables-nft -N KUBE-FORWARD
iptables-nft -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
iptables-nft -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
iptables-nft -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
`
)

func TestObstacles(t *testing.T) {
	const forwarded = "what containers send and what is sent to published ports and what goes to tasks of other nodes and what comes from other nodes for tasks"
	for name, c := range map[string]struct {
		rules string
		q     Question
		want  []string
	}{
		"nothing": {rules: "true"},
		"dockerd": {rules: dockerd, want: []string{"chain FORWARD of table ip filter (docker) drops " + forwarded + ", by its policy; " +
			"run: iptables -I DOCKER-USER -i shoal+ -j ACCEPT && iptables -I DOCKER-USER -o shoal+ -j ACCEPT"}},
		"dockerd with that": {rules: dockerd + "iptables-nft -I DOCKER-USER -i shoal+ -j ACCEPT\niptables-nft -I DOCKER-USER -o shoal+ -j ACCEPT"},
		"dockerd with half of that": {rules: dockerd + "iptables-nft -I DOCKER-USER -o shoal+ -j ACCEPT", want: []string{
			"chain FORWARD of table ip filter (docker) drops what containers send, by its policy; " +
				"run: iptables -I DOCKER-USER -i shoal+ -j ACCEPT && iptables -I DOCKER-USER -o shoal+ -j ACCEPT"}},
		"ufw": {rules: ufw, q: Question{Ports: &Ports{2377, 4789}}, want: []string{
			"chain INPUT of table ip filter (ufw) drops the swarm's port 2377/tcp and tunnels, port 4789/udp, by its policy; run: ufw allow 2377/tcp && ufw allow 4789/udp",
			"chain FORWARD of table ip filter (ufw) drops " + forwarded + ", by its policy; run: ufw route allow in on shoal+ && ufw route allow out on shoal+"}},
		"ufw with ports": {rules: ufw + "iptables-nft -P FORWARD ACCEPT\niptables-nft -A ufw-user-input -p tcp --dport 2000:3000 -j ACCEPT\niptables-nft -A ufw-user-input -p udp --dport 4789 -j ACCEPT",
			q: Question{Ports: &Ports{2377, 4789}}},
		"firewalld": {rules: firewalld, q: Question{Ports: &Ports{2377, 4789}}, want: []string{
			"chain filter_INPUT of table inet firewalld (firewalld) drops the swarm's port 2377/tcp and tunnels, port 4789/udp, by a rule of it; " +
				"run: firewall-cmd --permanent --add-port=2377/tcp --add-port=4789/udp && firewall-cmd --reload",
			"chain filter_FORWARD of table inet firewalld (firewalld) drops what containers send and what comes from other nodes for tasks, by a rule of it; " +
				"run: firewall-cmd --permanent --zone=trusted --add-interface=shoal+ && firewall-cmd --reload"}},
		"kube-proxy": {rules: kubeProxy},
		"own rules": {rules: own, want: []string{"chain forward of table inet filter drops " + forwarded + ", by its policy; " +
			`run: nft insert rule inet filter forward iifname '"shoal*"' accept && nft insert rule inet filter forward oifname '"shoal*"' accept`}},
		"an address that may be ours": {rules: own + "nft add rule inet filter forward ip saddr 10.0.0.0/8 accept", want: []string{
			"chain forward of table inet filter may drop " + forwarded + ", by its policy; " +
				`run: nft insert rule inet filter forward iifname '"shoal*"' accept && nft insert rule inet filter forward oifname '"shoal*"' accept`}},
		"a set of interfaces":  {rules: own + `nft add rule inet filter forward iifname '{ "eth0", "shoal-gw", "shoal-vx" }' accept`, q: Question{Uplink: "eth0"}},
		"the way out is known": {rules: own + `nft add rule inet filter forward iifname eth0 accept; nft add rule inet filter forward iifname '"shoal*"' accept`, q: Question{Uplink: "eth0"}},
		"bridged": {rules: strings.ReplaceAll(own, "policy drop", "policy accept") + `nft add rule inet filter forward iifname shoal-gw oifname shoal-gw drop`, q: Question{Bridged: true}, want: []string{
			"chain forward of table inet filter drops what containers send each other, by a rule of it; " +
				`run: nft insert rule inet filter forward iifname '"shoal*"' accept && nft insert rule inet filter forward oifname '"shoal*"' accept`}},
		"not bridged":     {rules: strings.ReplaceAll(own, "policy drop", "policy accept") + `nft add rule inet filter forward iifname shoal-gw oifname shoal-gw drop`},
		"IPv6 only":       {rules: `nft 'table ip6 filter { chain forward { type filter hook forward priority 0; policy drop; }; }'`},
		"a table of ours": {rules: `nft 'table ip shoal { chain forward { type filter hook forward priority -1; policy drop; }; }'`},
	} {
		t.Run(name, func(t *testing.T) {
			needs := []string{}
			if strings.Contains(c.rules, "iptables-nft") {
				needs = append(needs, "iptables-nft")
			}
			h := newHost(t, needs...)
			h.sh(c.rules)
			var got []string
			for _, o := range h.obstacles(c.q) {
				got = append(got, o.String()+"; run: "+o.Remedy)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// TestRemedies runs the commands that can be run here, and looks again.
func TestRemedies(t *testing.T) {
	for name, rules := range map[string]string{"dockerd": dockerd, "own rules": own} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, "iptables-nft")
			h.sh(rules)
			for _, o := range h.obstacles(Question{}) {
				h.sh(strings.ReplaceAll(o.Remedy, "iptables ", "iptables-nft "))
			}
			if left := h.obstacles(Question{}); len(left) > 0 {
				t.Errorf("still in the way: %v", left)
			}
		})
	}
}

func (h *host) keeper(manage bool) *Keeper {
	return NewKeeper(Config{Nft: h.nft, Question: func() Question { return Question{} }, Generation: func() (uint32, error) {
		// Every look counts as a change: the kernel's number is of another namespace.
		return uint32(hosts.Add(1)), nil
	}}, manage)
}

func (h *host) look(k *Keeper) {
	h.t.Helper()
	if err := k.Look(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

func TestKeeperManages(t *testing.T) {
	for name, c := range map[string]struct{ rules, chain, flush string }{
		"dockerd":   {dockerd, "ip filter DOCKER-USER", "iptables-nft -F DOCKER-USER"},
		"ufw":       {ufw, "ip filter ufw-user-forward", "iptables-nft -F ufw-user-forward"},
		"firewalld": {firewalld, "inet firewalld filter_FORWARD", "nft delete table inet firewalld\n" + firewalld},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, "iptables-nft")
			h.sh(c.rules)
			// Others' rules on the same host, which nobody is to touch.
			h.sh(strings.ReplaceAll(own, "policy drop", "policy accept"))
			before := h.sh("nft -s list ruleset")
			k := h.keeper(false)
			h.look(k)
			if k.Complaint() == "" || h.sh("nft -s list ruleset") != before {
				t.Fatalf("it complains %q, and must change nothing unasked", k.Complaint())
			}

			k.Manage(true)
			h.look(k)
			if got := k.Complaint(); got != "" {
				t.Errorf("still in the way: %s", got)
			}
			ours := func() int { return strings.Count(h.sh("nft list chain "+c.chain), comment) }
			if ours() != 2 {
				t.Errorf("%d rules of ours in %s, want 2", ours(), c.chain)
			}
			var rest []string
			for line := range strings.Lines(h.sh("nft -s list ruleset")) {
				if !strings.Contains(line, comment) {
					rest = append(rest, line)
				}
			}
			if strings.Join(rest, "") != before {
				t.Errorf("more than our rules changed:\n%s\nbefore\n%s", strings.Join(rest, ""), before)
			}
			if strings.HasPrefix(c.chain, "ip ") {
				if out := h.sh("iptables-nft -S"); strings.Count(out, "shoal+") != 2 {
					t.Errorf("iptables does not show our rules as its own:\n%s", out)
				}
			}
			h.look(k)
			if ours() != 2 {
				t.Errorf("%d rules of ours after a second look", ours())
			}

			h.sh(c.flush) // a reload
			h.look(k)
			if ours() != 2 || k.Complaint() != "" {
				t.Errorf("%d rules of ours after a reload, and %q", ours(), k.Complaint())
			}

			// A daemon that is started without the key finds what the one before left.
			k = h.keeper(false)
			h.look(k)
			if ours() != 0 || k.Complaint() == "" {
				t.Errorf("%d rules of ours are left, and %q", ours(), k.Complaint())
			}
		})
	}
}

func TestKeeperLooksWhenSomethingChanged(t *testing.T) {
	var lists, gen int
	k := NewKeeper(Config{
		Generation: func() (uint32, error) { return uint32(gen), nil }, Question: func() Question { return Question{} },
		Nft: func(context.Context, string, ...string) ([]byte, error) {
			lists++
			return []byte(`{"nftables": []}`), nil
		},
	}, false)
	for _, step := range []struct{ gen, want int }{{1, 1}, {1, 1}, {2, 2}, {2, 2}} {
		gen = step.gen
		if err := k.Look(t.Context()); err != nil || lists != step.want {
			t.Errorf("generation %d: %d lists, %v, want %d", gen, lists, err, step.want)
		}
	}
	k.Manage(true)
	if err := k.Look(t.Context()); err != nil || lists != 3 {
		t.Errorf("after a change of mind: %d lists, %v", lists, err)
	}
	if (*Keeper)(nil).Complaint() != "" {
		t.Error("no keeper complains")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}}]}`,
		`{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "a", "hook": "forward"}}, {"rule": {"family": "ip", "table": "t", "chain": "a", "expr": [{"jump": {"target": "a"}}]}}]}`,
		`{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "a", "hook": "input"}}, {"rule": {"family": "ip", "table": "t", "chain": "a", "expr": [
			{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new"]}}, {"vmap": {"key": {"concat": [{"meta": {"key": "iifname"}}]}, "data": {"set": [[{"concat": ["x"]}, {"drop": null}]]}}}]}}]}`,
		`{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "a", "hook": "input"}}, {"rule": {"family": "ip", "table": "t", "chain": "a", "expr": [{"match": {"op": "==", "left": {"&": [{"ct": {}}, []]}, "right": []}}]}}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		r, err := Parse(data)
		if err != nil {
			return
		}
		for _, manage := range []bool{false, true} {
			_ = r.change(r.Obstacles(Question{Uplink: "eth0", Bridged: true, Ports: &Ports{2377, 4789}}), manage)
		}
	})
}
