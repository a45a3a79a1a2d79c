package sockets

import (
	"net/netip"
	"testing"
)

func TestSocketOn(t *testing.T) {
	const listen = "   3: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3661 1 0000000000000000 100 0 0 10 0"
	const any6 = "   0: 00000000000000000000000000000000:2328 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0"
	const local6 = "   0: 00000000000000000000000001000000:2328 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 78 1 0 100 0 0 10 0"
	const connected = "   4: 0100007F:2328 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 3662 1 0000000000000000 100 0 0 10 0"
	for _, tt := range []struct {
		name, line, protocol, ip string
		port                     uint16
		inode                    string // "": not it
	}{
		{"all addresses", listen, "tcp", "0.0.0.0", 9000, "3661"},
		{"its address", listen, "tcp", "127.0.0.1", 9000, "3661"},
		{"another address", listen, "tcp", "198.51.100.1", 9000, ""},
		{"another port", listen, "tcp", "0.0.0.0", 9001, ""},
		{"a connection", connected, "tcp", "0.0.0.0", 9000, ""},
		{"all addresses of both families", any6, "tcp", "198.51.100.1", 9000, "77"},
		{"one of IPv6", local6, "tcp", "0.0.0.0", 9000, ""},
		{"UDP has no state", connected, "udp", "127.0.0.1", 9000, "3662"},
		{"the heading", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", "tcp", "0.0.0.0", 9000, ""},
		{"nothing", "", "tcp", "0.0.0.0", 9000, ""},
	} {
		inode, ok := socketOn(tt.line, tt.protocol, netip.MustParseAddr(tt.ip), tt.port)
		if ok != (tt.inode != "") || ok && inode != tt.inode {
			t.Errorf("%s: %q, %v", tt.name, inode, ok)
		}
	}
}
