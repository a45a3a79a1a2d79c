package sockets

import (
	"fmt"
	"os"
	"strings"
)

// loopback is ::1 as the kernel prints it in /proc/net/tcp6.
const loopback = "00000000000000000000000001000000"

// Listens says whether a process in the network of process pid takes connections or datagrams from others: on any port of an
// address that is not the loopback's. The error says that the process has gone, or nearly.
func Listens(pid int) (bool, error) {
	for protocol, open := range map[string]string{"tcp": tcpListen, "udp": udpUnconnected} {
		for _, version := range []string{"", "6"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s%s", pid, protocol, version))
			if err != nil && (version == "" || !os.IsNotExist(err)) { // a kernel may have no IPv6
				return false, err
			}
			for line := range strings.Lines(string(data)) {
				s, ok := parseSocket(line)
				if ok && s.state == open && s.addr != loopback && (len(s.addr) != 8 || !strings.HasSuffix(s.addr, "7F")) {
					return true, nil
				}
			}
		}
	}
	return false, nil
}
