package virtual

import "github.com/mdlayher/netlink"

// bufferBytes bounds what a transaction sends to the kernel and what the kernel answers before the answers are read: an
// acknowledgement of each message and a copy of each rule, of which the kernel counts up to 2 KB each. By default a
// transaction of some thirty services fails with ENOBUFS. The kernel takes the memory only while it is used. This is enough
// for 4,000 services on one network.
const bufferBytes = 64 << 20

// roomy gives a socket room for a large transaction.
func roomy(c *netlink.Conn) error {
	if err := c.SetWriteBuffer(bufferBytes); err != nil {
		return err
	}
	return c.SetReadBuffer(bufferBytes)
}
