// Package sockets finds out which process holds a port of the host.
//
// It decides nothing and owns nothing: it reads what the kernel says of sockets and of processes' files.
package sockets

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tcpListen is the state of a listening socket in /proc/net/tcp.
const tcpListen = "0A"

// Owner says who has a port of the namespace that the calling thread is in, as "process NAME (PID)". The text is "" if that
// cannot be found out: it may be the kernel's, or one of another namespace of processes. An unspecified address is any.
func Owner(protocol string, ip netip.Addr, port uint16) (owner string, held bool) {
	var inodes []string
	for _, file := range []string{protocol, protocol + "6"} {
		f, err := os.Open("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if inode, ok := socketOn(lines.Text(), protocol, ip, port); ok {
				inodes = append(inodes, "socket:["+inode+"]")
			}
		}
		_ = f.Close() // only read
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
	f := strings.Fields(line)
	if len(f) < 10 || protocol == "tcp" && f[3] != tcpListen {
		return "", false
	}
	addr, num, _ := strings.Cut(f[1], ":")
	n, err := strconv.ParseUint(num, 16, 16)
	if err != nil || uint16(n) != port {
		return "", false
	}
	if strings.Trim(addr, "0") == "" || len(addr) == 8 && ip.IsUnspecified() {
		return f[9], true
	}
	// The kernel prints the address as a number of this machine, which is little-endian wherever Shoal is built for.
	b := ip.As4()
	return f[9], addr == fmt.Sprintf("%02X%02X%02X%02X", b[3], b[2], b[1], b[0])
}
