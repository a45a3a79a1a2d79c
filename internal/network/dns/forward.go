package dns

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Bounds of forwarding. A resolver gives up on us after 5 s by default (resolv.conf(5)) and asks again.
const (
	serverTimeout  = 2 * time.Second  // for one server's answer
	forwardTimeout = 10 * time.Second // for all of them, twice
	rounds         = 2
	maxPerAsker    = 128  // questions of one container that wait for servers
	maxForwards    = 1024 // and of all; the figure is Docker's
	maxServers     = 8
)

// Servers is where to ask for names that no container has.
type Servers struct {
	// List gives the servers of the moment; nil or an empty list is that there is nobody to ask.
	List func() []netip.AddrPort
	// Dial connects to one, from wherever it is to be reached.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// HostServers reads the name servers of a resolv.conf.
func HostServers(path string) []netip.AddrPort {
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	return out
}

// forward asks the asker's servers. Without any, a name that no container has does not exist.
func (s *Session) forward(ctx context.Context, asker *Asker, q *dns.Msg, overTCP bool) *dns.Msg {
	var servers []netip.AddrPort
	if asker.Servers.List != nil {
		servers = asker.Servers.List()
	}
	if len(servers) == 0 {
		return fail(q, dns.RcodeNameError)
	}
	servers = servers[:min(len(servers), maxServers)]
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return fail(q, dns.RcodeRefused)
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	select {
	case s.server.waiting <- struct{}{}:
		defer func() { <-s.server.waiting }()
	case <-ctx.Done():
		return fail(q, dns.RcodeServerFailure)
	}
	var last *dns.Msg
	for range rounds {
		for _, server := range servers {
			r, err := exchange(ctx, asker.Servers.Dial, server, q, overTCP)
			if err != nil {
				if ctx.Err() != nil {
					break
				}
				s.server.cfg.Log.Debug("a name server does not answer", "server", server, "error", err)
				continue
			}
			switch r.Rcode {
			case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented: // another one may know
				last = r
				continue
			}
			return r
		}
		if last != nil { // all that answer refuse
			return last
		}
	}
	return fail(q, dns.RcodeServerFailure)
}

// exchange asks one server. Its answer has the question's ID; what does not answer the question is no answer.
func exchange(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), server netip.AddrPort, q *dns.Msg, overTCP bool) (*dns.Msg, error) {
	network := "udp"
	if overTCP {
		network = "tcp"
	}
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	c, err := dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	ask := q.Copy()
	ask.Id = dns.Id()
	client := &dns.Client{Net: network, Timeout: serverTimeout, UDPSize: dns.MaxMsgSize} // some servers send more than they are asked for
	r, _, err := client.ExchangeWithConnContext(ctx, ask, &dns.Conn{Conn: c})
	if err != nil {
		return nil, err
	}
	if len(r.Question) != 1 || !strings.EqualFold(r.Question[0].Name, q.Question[0].Name) || r.Question[0].Qtype != q.Question[0].Qtype {
		return nil, dns.ErrId
	}
	r.Id, r.Question = q.Id, q.Question
	return r, nil
}
