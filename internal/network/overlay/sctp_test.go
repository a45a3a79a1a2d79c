package overlay

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"testing"
	"time"

	"shoal.dev/shoal/internal/network"
)

// Chunks of SCTP (RFC 9260).
const (
	sctpInit    = 1
	sctpInitAck = 2
)

// sctpPacket is an SCTP packet with the first or the second chunk of an association. It is made by hand because the
// machines of the tests need not have SCTP sockets: what carries it is conntrack.
func sctpPacket(from, to uint16, chunk byte, verification, initiate uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, verification)
	b = append(b, 0, 0, 0, 0, chunk, 0, 0, 20)
	b = binary.BigEndian.AppendUint32(b, initiate)
	b = binary.BigEndian.AppendUint32(b, 64<<10) // receiver window
	b = append(b, 0, 1, 0, 1)                    // streams
	b = binary.BigEndian.AppendUint32(b, 1)      // first transmission number
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// rawSCTP is a socket of the namespace for packets of SCTP.
func (l *lab) rawSCTP(s *space) net.PacketConn {
	l.t.Helper()
	var c net.PacketConn
	l.must(s.in(func() (err error) {
		c, err = net.ListenPacket("ip4:132", "0.0.0.0")
		return err
	}))
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestSCTP begins an association through a published port, by way of another node, and through a virtual address: it is
// led to a task's port, the answer comes back as from what was asked, and the task sees the client.
func TestSCTP(t *testing.T) {
	l := newOverlayLab(t, 2)
	id := l.net(1)
	asker := l.runIn(l.hosts[0], "asker", id, "10.1.1.11")
	server := l.run(l.hosts[1], "server", "10.77.0.12")
	named := l.runIn(l.hosts[1], "named", id, "10.1.1.12")
	l.change(id, func(o *network.Overlay) {
		o.VIPs = []network.VIP{{Addr: netip.MustParseAddr("10.1.1.2"), Backends: []netip.Addr{netip.MustParseAddr("10.1.1.12")}}}
	})
	for _, h := range l.hosts {
		d := l.desiredOn(h)
		d.Ingress = l.desired(h, pub{"sctp", 9900, []*labBox{server}}).Ingress
		l.must(h.k.Apply(t.Context(), d))
	}
	for _, c := range []struct {
		name       string
		from       *space
		to         string
		port       uint16
		server     *labBox
		serverPort uint16
		seen       string
	}{
		{"a published port", l.client, l.hosts[0].addr, 9900, server, 80, clientAddr},
		{"a virtual address", asker.space, "10.1.1.2", 9901, named, 9901, "10.1.1.11"},
	} {
		client, task := l.rawSCTP(c.from), l.rawSCTP(c.server.space)
		receive := func(s net.PacketConn, who string) (packet []byte, from string) {
			t.Helper()
			l.must(s.SetReadDeadline(time.Now().Add(patience)))
			buf := make([]byte, 2048)
			n, a, err := s.ReadFrom(buf)
			if err != nil {
				t.Fatalf("%s: %s: %v", c.name, who, err)
			}
			return buf[:n], a.String()
		}
		_, err := client.WriteTo(sctpPacket(40000, c.port, sctpInit, 0, 7), &net.IPAddr{IP: net.ParseIP(c.to)})
		l.must(err)
		got, from := receive(task, "the task")
		if to := binary.BigEndian.Uint16(got[2:]); to != c.serverPort || from != c.seen || got[12] != sctpInit {
			t.Errorf("%s: the task is asked at port %d by %s with chunk %d", c.name, to, from, got[12])
		}
		_, err = task.WriteTo(sctpPacket(c.serverPort, 40000, sctpInitAck, 7, 9), &net.IPAddr{IP: net.ParseIP(from)})
		l.must(err)
		got, from = receive(client, "the client")
		if by := binary.BigEndian.Uint16(got); by != c.port || from != c.to || got[12] != sctpInitAck {
			t.Errorf("%s: the answer is of port %d of %s with chunk %d", c.name, by, from, got[12])
		}
	}
}
