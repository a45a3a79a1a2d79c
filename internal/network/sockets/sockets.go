// Package sockets finds out which process holds a port of the host, and whether anybody listens.
//
// It decides nothing and owns nothing: it reads what the kernel says of sockets and of processes' files.
package sockets

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// States of a socket in /proc/net/tcp and udp: one that listens, one without a peer (include/net/tcp_states.h).
const (
	tcpListen      = "0A"
	udpUnconnected = "07"
)

// Owner says who has a port of the namespace that the calling thread is in, as "process NAME (PID)". The text is "" if that
// cannot be found out: it may be the kernel's, or one of another namespace of processes. An unspecified address is any.
func Owner(protocol string, ip netip.Addr, port uint16) (owner string, held bool) {
	var inodes []string
	for _, file := range []string{protocol, protocol + "6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if inode, ok := socketOn(line, protocol, ip, port); ok {
				inodes = append(inodes, "socket:["+inode+"]")
			}
		}
	}
	if len(inodes) == 0 {
		return "", false
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return "", true
	}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil {
			continue // it was closed meanwhile
		}
		for _, inode := range inodes {
			if to == inode {
				dir := filepath.Dir(filepath.Dir(fd))
				name, _ := os.ReadFile(filepath.Join(dir, "comm"))
				return fmt.Sprintf("process %s (%s)", strings.TrimSpace(string(name)), filepath.Base(dir)), true
			}
		}
	}
	return "", true
}

// socketOn reads a line of /proc/net/{tcp,udp}{,6}; ok says that its socket has the port at the address.
func socketOn(line, protocol string, ip netip.Addr, port uint16) (inode string, ok bool) {
	s, ok := parseSocket(line)
	if !ok || s.port != port || protocol == "tcp" && s.state != tcpListen {
		return "", false
	}
	if strings.Trim(s.addr, "0") == "" || len(s.addr) == 8 && ip.IsUnspecified() {
		return s.inode, true
	}
	// The kernel prints the address as a number of this machine, which is little-endian wherever Shoal is built for.
	b := ip.As4()
	return s.inode, s.addr == fmt.Sprintf("%02X%02X%02X%02X", b[3], b[2], b[1], b[0])
}

// socket is a line of /proc/net/{tcp,udp}{,6}, with its own address as the kernel prints it.
type socket struct {
	addr         string
	port         uint16
	state, inode string
}

func parseSocket(line string) (s socket, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return s, false
	}
	addr, num, _ := strings.Cut(f[1], ":")
	n, err := strconv.ParseUint(num, 16, 16)
	return socket{addr: addr, port: uint16(n), state: f[3], inode: f[9]}, err == nil
}
