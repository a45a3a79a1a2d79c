package overlay

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/dns"
	"shoal.dev/shoal/internal/network/local"
	"shoal.dev/shoal/internal/network/ports"
	"shoal.dev/shoal/internal/network/ruleset"
)

// validID is what a container may be called: its files are named after it.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// box is a container's network. It is written to its file before the kernel has any of it, and removed after, so that
// a crash at any point leaves what the next Attach or Detach finishes.
type box struct {
	mu sync.Mutex // held while the kernel is changed for it

	ID        string
	Name      string `json:",omitempty"`
	Endpoints []*endpoint
	Ingress   netip.Addr             `json:"Ingress,omitzero"`
	Asked     []engine.PortRequest   `json:",omitempty"`
	Ports     []engine.PublishedPort `json:",omitempty"` // what Asked got
	Resolvers []netip.Addr           `json:",omitempty"`

	left       []string // the host's ends of interfaces that are to go
	leftInside []string // and the container's ends, of interfaces whose other end is in a network's own namespace

	vips       []network.VIP // that its namespace has
	virtual    bool          // vips is known
	session    *dns.Session  // nil if it gets no answers for names
	servers    [2]uint16     // the ports of its name server, UDP and TCP
	redirected bool          // questions lead to these
	seal       ruleset.Seal  // on our tables in its namespace
}

// endpoint is a container's place on a network. boxes.mu guards what changes of it.
type endpoint struct {
	ID, NetworkID string
	Addr          netip.Addr
	MAC           apinetwork.HardwareAddr
	Outside       string            // the name of the host's end of its interface
	Inside        string            // and of the container's: eth0, eth1 …
	Names         []string          `json:",omitempty"`
	Links         map[string]string `json:",omitempty"`
	Priority      int               `json:",omitempty"`

	net local.Network
}

// boxes are all containers' networks.
type boxes struct {
	cfg      Config
	host     *space
	nl       *netlink.Handle
	names    *dns.Server
	segments *segments

	mu     sync.Mutex
	nets   *local.Book
	byID   map[string]*box
	book   ports.Book
	closed bool
}

// loadBoxes reads what is known from before.
func loadBoxes(cfg Config, subnet netip.Prefix, host *space, nl *netlink.Handle, s *segments) (*boxes, error) {
	b := &boxes{
		cfg: cfg, host: host, nl: nl, names: dns.New(dns.Config{Log: cfg.Log}), segments: s, byID: map[string]*box{},
		nets: local.NewBook(cfg.HostID, subnet, cfg.BridgeName),
	}
	if err := b.loadNetworks(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.dir(), 0o700); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(b.dir())
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		path := filepath.Join(b.dir(), f.Name())
		if strings.HasSuffix(f.Name(), ".tmp") {
			_ = os.Remove(path)
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		x := &box{}
		if err := json.Unmarshal(data, x); err != nil || x.ID != f.Name() || !b.resume(x) {
			cfg.Log.Warn("a container's network cannot be read; it gets a new one when it starts again", "file", path)
			_ = os.Remove(path)
			continue
		}
		b.byID[x.ID] = x
		for _, p := range x.Ports {
			b.book.Add(ports.Holder{ID: x.ID, Name: x.Name}, p)
		}
	}
	b.renew()
	return b, nil
}

// resume gives a container the addresses that it had.
func (b *boxes) resume(x *box) bool {
	for i, p := range x.Endpoints {
		n, err := b.nets.Find(p.NetworkID)
		if err == nil {
			_, err = b.nets.Join(n.ID, local.Endpoint{ID: p.ID, Container: x.ID, Name: x.Name, Addr: p.Addr, MAC: p.MAC}, macOf)
		}
		if err != nil {
			for _, p := range x.Endpoints[:i] {
				b.nets.Leave(p.NetworkID, p.ID)
			}
			return false
		}
		p.net = n
	}
	return true
}

func macOf(a netip.Addr) apinetwork.HardwareAddr { return apinetwork.HardwareAddr(network.MAC(a)) }

func (b *boxes) dir() string           { return filepath.Join(b.cfg.StateDir, "containers") }
func (b *boxes) file(id string) string { return filepath.Join(b.dir(), id) }
func (b *boxes) netnsOf(x *box) string { return filepath.Join(b.cfg.NetnsDir, x.ID) }

// cidr is the endpoint's address with the length of its network's prefix.
func (p *endpoint) cidr() *net.IPNet {
	return ipNet(netip.PrefixFrom(p.Addr, p.net.Subnet().Bits()))
}

func (b *boxes) sandbox(x *box) engine.Sandbox {
	s := engine.Sandbox{NetNS: b.netnsOf(x), Ports: slices.Clone(x.Ports), Names: x.named()}
	for _, p := range x.Endpoints {
		s.Endpoints = append(s.Endpoints, p.shown())
	}
	return s
}

func (p *endpoint) shown() engine.Endpoint {
	e := engine.Endpoint{
		ID: p.ID, NetworkID: p.NetworkID, Network: p.net.Name, Driver: p.net.Driver, Interface: p.Inside, Addr: p.Addr, Bits: p.net.Subnet().Bits(),
		MAC: p.MAC.String(), Internal: p.net.Internal, Names: slices.Clone(p.Names), Priority: p.Priority,
	}
	if !p.net.Internal && !p.net.OfSwarm() { // these lead to their tasks only: the way out is the network bridge
		e.Gateway = p.net.Gateway()
	}
	return e
}

// way is the endpoint that the default route leads through, or nil.
func (x *box) way() *endpoint {
	s := engine.Sandbox{}
	for _, p := range x.Endpoints {
		s.Endpoints = append(s.Endpoints, p.shown())
	}
	if g := s.Gateway(); g != nil {
		return x.on(g.NetworkID)
	}
	return nil
}

func (x *box) on(networkID string) *endpoint {
	for _, p := range x.Endpoints {
		if p.NetworkID == networkID {
			return p
		}
	}
	return nil
}

// home is the endpoint on the network bridge, which the ingress address goes with; nil if there is none.
func (x *box) home() *endpoint {
	for _, p := range x.Endpoints {
		if p.net.Name == local.Bridge {
			return p
		}
	}
	return nil
}

// reserve finds or makes the record of a container, with places on the networks that it asks for, and returns it
// locked. If a place cannot be had, it keeps those that it had.
func (b *boxes) reserve(id string, a engine.Attachment) (*box, error) {
	for {
		x, err := b.find(id)
		if err != nil {
			return nil, err
		}
		x.mu.Lock()
		b.mu.Lock()
		current := b.byID[id] == x
		b.mu.Unlock()
		if !current { // detached while we waited
			x.mu.Unlock()
			continue
		}
		if err := b.place(x, a); err != nil {
			x.mu.Unlock()
			return nil, err
		}
		if err := writeJSON(b.file(id), x); err != nil {
			x.mu.Unlock()
			return nil, err
		}
		return x, nil
	}
}

func (b *boxes) find(id string) (*box, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errDown()
	}
	x := b.byID[id]
	if x == nil {
		x = &box{ID: id}
		b.byID[id] = x
	}
	return x, nil
}

// place gives the container its places. x is locked.
func (b *boxes) place(x *box, a engine.Attachment) error {
	want := a.Networks
	if want == nil {
		want = []engine.EndpointRequest{{Network: local.Bridge}}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	had := x.Endpoints
	var now, fresh []*endpoint
	err := func() error {
		for _, r := range want {
			n, err := b.nets.Find(r.Network)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(now, func(p *endpoint) bool { return p.NetworkID == n.ID }) {
				return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("endpoint with name %s already exists in network %s", a.Name, n.Name))
			}
			p := x.on(n.ID)
			if p == nil || r.Addr.IsValid() && r.Addr != p.Addr || r.MAC != "" && r.MAC != p.MAC.String() {
				if p, err = b.join(x, a.Name, n, r); err != nil {
					return err
				}
				fresh = append(fresh, p)
			}
			now = append(now, p)
		}
		return nil
	}()
	if err != nil {
		for _, p := range fresh {
			b.nets.Leave(p.NetworkID, p.ID)
		}
		return err
	}
	for _, p := range had {
		if !slices.Contains(now, p) {
			b.nets.Leave(p.NetworkID, p.ID)
			if p.net.OfSwarm() {
				x.leftInside = append(x.leftInside, p.Inside)
			} else {
				x.left = append(x.left, p.Outside)
			}
		}
	}
	for i, r := range want {
		p := now[i]
		p.Names, p.Links, p.Priority = r.Names, r.Links, r.Priority
		b.nets.Rename(p.NetworkID, p.ID, a.Name)
		if p.Inside == "" {
			p.Inside = freeName(now)
		}
	}
	if x.Ingress != a.Ingress {
		b.forgetNeighbour(x)
	}
	x.Name, x.Endpoints, x.Ingress, x.Resolvers = a.Name, now, a.Ingress, slices.Clone(a.Resolvers)
	b.renew()
	return nil
}

// join takes a place on a network. b.mu is held.
func (b *boxes) join(x *box, name string, n local.Network, r engine.EndpointRequest) (*endpoint, error) {
	p := local.Endpoint{ID: newID(), Container: x.ID, Name: name, Addr: r.Addr}
	if r.MAC != "" {
		mac, err := net.ParseMAC(r.MAC)
		if err != nil || len(mac) != 6 {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid MAC address: %s", r.MAC))
		}
		p.MAC = apinetwork.HardwareAddr(mac)
	}
	p, err := b.nets.Join(n.ID, p, macOf)
	if err != nil {
		return nil, err
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails on Linux
	return &endpoint{ID: p.ID, NetworkID: n.ID, Addr: p.Addr, MAC: p.MAC, Outside: "shoal-" + hex.EncodeToString(random[:]), net: n}, nil
}

// freeName is the first of eth0, eth1 … that no other interface has.
func freeName(others []*endpoint) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("eth%d", i)
		if !slices.ContainsFunc(others, func(p *endpoint) bool { return p.Inside == name }) {
			return name
		}
	}
}

func (b *boxes) all() []*box {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*box, 0, len(b.byID))
	for _, x := range b.byID {
		out = append(out, x)
	}
	return out
}
