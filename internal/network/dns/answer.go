package dns

import (
	"context"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"
)

const (
	// ttl of containers' names, in seconds: whoever keeps an answer keeps it when the container is gone.
	ttl = 0
	// maxUDP is the longest message over UDP, in bytes; RFC 6891 suggests it.
	maxUDP = 4096
)

// respond answers a question. It returns nil if there is nothing to answer to.
func (s *Session) respond(ctx context.Context, q *dns.Msg, overTCP bool) *dns.Msg {
	if q == nil || q.Response {
		return nil
	}
	limit := limitOf(q, overTCP)
	r := s.resolve(ctx, q, overTCP)
	if opt := q.IsEdns0(); opt != nil {
		if r.IsEdns0() == nil {
			r.SetEdns0(maxUDP, opt.Do())
		}
		if opt.Version() != 0 {
			r = fail(q, dns.RcodeBadVers)
			r.SetEdns0(maxUDP, false)
		}
	}
	r.Compress = true
	r.Truncate(limit)
	return r
}

// limitOf is how long an answer may be, in bytes.
func limitOf(q *dns.Msg, overTCP bool) int {
	if overTCP {
		return dns.MaxMsgSize
	}
	limit := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		limit = max(limit, min(int(opt.UDPSize()), maxUDP))
	}
	return limit
}

func (s *Session) resolve(ctx context.Context, q *dns.Msg, overTCP bool) *dns.Msg {
	if q.Opcode != dns.OpcodeQuery {
		return fail(q, dns.RcodeNotImplemented)
	}
	if len(q.Question) != 1 {
		return fail(q, dns.RcodeFormatError)
	}
	names, asker := s.server.names.Load(), s.asker.Load()
	question := q.Question[0]
	if question.Qclass == dns.ClassINET || question.Qclass == dns.ClassANY {
		if r := local(names, asker, q); r != nil {
			return r
		}
	}
	return s.forward(ctx, asker, q, overTCP)
}

// local answers from the table, or returns nil if others are to be asked.
func local(names *Names, asker *Asker, q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	if question.Qtype == dns.TypePTR {
		addr, ok := reverseAddr(question.Name)
		if !ok {
			return nil
		}
		name, own := names.Reverse(asker, addr)
		if !own {
			return nil
		}
		if name == "" {
			r := fail(q, dns.RcodeNameError)
			r.Authoritative = true
			return r
		}
		r := reply(q)
		r.Answer = []dns.RR{&dns.PTR{Hdr: header(question.Name, dns.TypePTR), Ptr: dns.Fqdn(name)}}
		return r
	}
	addrs, known := names.Lookup(asker, question.Name)
	if !known {
		return nil
	}
	r := reply(q) // of another type than it has: the name is there, the data is not
	for _, a := range shuffled(addrs) {
		any := question.Qtype == dns.TypeANY
		switch {
		case a.Is4() && (any || question.Qtype == dns.TypeA):
			r.Answer = append(r.Answer, &dns.A{Hdr: header(question.Name, dns.TypeA), A: a.AsSlice()})
		case a.Is6() && (any || question.Qtype == dns.TypeAAAA):
			r.Answer = append(r.Answer, &dns.AAAA{Hdr: header(question.Name, dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	return r
}

// shuffled is a copy in any order, so that clients that take the first spread.
func shuffled(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(addrs))
	for i, k := range rand.Perm(len(addrs)) {
		out[i] = addrs[k]
	}
	return out
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// reply begins an answer from the table, which nobody knows better.
func reply(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	r.Authoritative, r.RecursionAvailable = true, true
	return r
}

func fail(q *dns.Msg, code int) *dns.Msg {
	r := new(dns.Msg).SetRcode(q, code)
	r.RecursionAvailable = true
	return r
}
