package overlay

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network/dns"
)

// namesTable is our table in containers' namespaces.
const namesTable = "shoal-names"

// dnsPort is where programs look for a name server.
const dnsPort = 53

// named says whether the container is on a network with names.
func (x *box) named() bool {
	return slices.ContainsFunc(x.Endpoints, func(p *endpoint) bool { return p.net.Named() })
}

// asker is what the container may see of names: those of its networks, that of the default route first.
func (b *boxes) asker(x *box) *dns.Asker {
	a := &dns.Asker{Links: map[string]string{}}
	way := x.way()
	list := slices.Clone(x.Endpoints)
	slices.SortStableFunc(list, func(p, q *endpoint) int {
		switch way {
		case p:
			return -1
		case q:
			return 1
		}
		return 0
	})
	for _, p := range list {
		if p.net.Named() {
			a.Networks = append(a.Networks, p.NetworkID)
			a.Subnets = append(a.Subnets, p.net.Subnet())
		}
		for alias, to := range p.Links {
			a.Links[alias] = to
		}
	}
	switch {
	case len(x.Resolvers) > 0: // the container's own, which it may reach without a way out
		var servers []netip.AddrPort
		for _, r := range x.Resolvers {
			servers = append(servers, netip.AddrPortFrom(r, dnsPort))
		}
		path := b.netnsOf(x)
		a.Servers.List = func() []netip.AddrPort { return servers }
		a.Servers.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			inside, err := openSpace(path)
			if err != nil {
				return nil, err
			}
			defer inside.close()
			return dialIn(ctx, inside, network, addr)
		}
	case way != nil: // from the host, which also reaches servers on its own loopback
		a.Servers.List = func() []netip.AddrPort { return dns.HostServers(b.cfg.ResolvConf) }
		a.Servers.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialIn(ctx, b.host, network, addr)
		}
	}
	return a
}

func dialIn(ctx context.Context, s *space, network, addr string) (c net.Conn, err error) {
	err = s.in(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// serve answers the container's questions for names, if it is on a network with names. x is locked.
func (b *boxes) serve(x *box) error {
	if x.session != nil {
		x.session.Set(b.asker(x))
		if x.redirected {
			return nil
		}
	} else if !x.named() {
		return nil
	}
	inside, err := openSpace(b.netnsOf(x))
	if err != nil {
		return err
	}
	defer inside.close()
	if x.session == nil {
		if err := b.listen(x, inside); err != nil {
			return fmt.Errorf("name server: %w", err)
		}
	}
	if err := x.write(inside, func() error { return redirect(int(inside.ns), x.servers[0], x.servers[1]) }); err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	x.redirected = true
	return nil
}

// listen begins to answer the container's questions, which nothing leads there yet. x is locked.
func (b *boxes) listen(x *box, inside *space) error {
	var udp net.PacketConn
	var tcp net.Listener
	// Ports of the kernel's choice: the container may have a server of its own on 53.
	err := inside.in(func() (err error) {
		if udp, err = net.ListenPacket("udp4", dns.Addr+":0"); err != nil {
			return err
		}
		if tcp, err = net.Listen("tcp4", dns.Addr+":0"); err != nil {
			_ = udp.Close()
		}
		return err
	})
	if err != nil {
		return err
	}
	x.servers, x.redirected = [2]uint16{portOf(udp.LocalAddr()), portOf(tcp.Addr())}, false
	x.session = b.names.Serve(b.asker(x), udp, tcp)
	return nil
}

func portOf(a net.Addr) uint16 {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return 0
	}
	return p.Port()
}

// redirect has packets to the name server's address go to these ports, in place of what was there.
func redirect(ns int, udp, tcp uint16) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: namesTable})
	c.FlushTable(t)
	chain := c.AddChain(&nftables.Chain{
		Table: t, Name: "output", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	addr := netip.MustParseAddr(dns.Addr).AsSlice()
	for proto, port := range map[byte]uint16{unix.IPPROTO_UDP: udp, unix.IPPROTO_TCP: tcp} {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}, // the destination
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // and its port
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, dnsPort)},
			&expr.Immediate{Register: 1, Data: addr},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, port)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change nftables: %w", err)
	}
	return nil
}

// silence ends the answers. x is locked.
func (x *box) silence() {
	if x.session != nil {
		_ = x.session.Close()
		x.session = nil
	}
}

// silence ends all answers.
func (b *boxes) silence() {
	for _, x := range b.all() {
		x.mu.Lock()
		x.silence()
		x.mu.Unlock()
	}
}

// renew makes the table of names anew: it follows from who is on which network of the host, and from what the swarm says
// of its own. b.mu is held.
func (b *boxes) renew() {
	list := b.segments.names()
	for _, x := range b.byID {
		for _, p := range x.Endpoints {
			if p.net.Named() && !p.net.OfSwarm() {
				list = append(list, dns.Record{Network: p.NetworkID, NetworkName: p.net.Name, Names: p.Names, Addrs: []netip.Addr{p.Addr}})
			}
		}
	}
	b.names.Set(dns.NewNames(list))
}
