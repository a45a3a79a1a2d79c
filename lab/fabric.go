package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// bridge joins all hosts, in the fabric's namespace.
const bridge = "br0"

// makeFabric makes the switch between the hosts. It has no address: it is no host and routes nothing.
func makeFabric(ctx context.Context) error {
	if err := makeNamespace(ctx, FabricNamespace, "ipv6/conf/all/disable_ipv6=1", "ipv6/conf/default/disable_ipv6=1"); err != nil {
		return err
	}
	// Without a spanning tree a port forwards at once; without snooping no frame waits for a querier.
	return ip(ctx, "-n "+FabricNamespace+" link add "+bridge+" type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
		"-n "+FabricNamespace+" link set "+bridge+" up")
}

// makeNamespace makes a network namespace with a loopback and the settings that a machine has after boot: a new
// namespace takes its IPv4 settings from the machine's own, which may forward (ip-sysctl: devconf_inherit_init_net).
func makeNamespace(ctx context.Context, namespace string, sysctls ...string) error {
	if err := ip(ctx, "netns add "+namespace, "-n "+namespace+" link set lo up"); err != nil {
		return err
	}
	return inNamespace(namespace, func() error {
		for _, s := range append(sysctls, "ipv4/ip_forward=0") {
			key, value, _ := strings.Cut(s, "=")
			// A kernel without IPv6 has none of its settings, and needs none.
			err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0)
			if err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	})
}

// makeHost makes the namespace of a host and its link: eth0 there, a port with the host's name at the bridge. Both
// ends are made where they belong, so that no interface appears in the machine's own namespace. The hardware address
// follows from the address, so that a host that was off comes back with the one that its peers remember.
func makeHost(ctx context.Context, namespace, addr string) error {
	if err := makeNamespace(ctx, namespace); err != nil {
		return err
	}
	var b [4]byte
	if _, err := fmt.Sscanf(addr, "%d.%d.%d.%d", &b[0], &b[1], &b[2], &b[3]); err != nil {
		return fmt.Errorf("address %s: %w", addr, err)
	}
	mac := fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
	port := portOf(namespace)
	return ip(ctx,
		fmt.Sprintf("-n %s link add %s type veth peer name eth0 address %s netns %s", FabricNamespace, port, mac, namespace),
		fmt.Sprintf("-n %s addr add %s/%d dev eth0", namespace, addr, subnetBits),
		fmt.Sprintf("-n %s link set eth0 up", namespace),
		fmt.Sprintf("-n %s link set %s master %s up", FabricNamespace, port, bridge))
}

// portOf is the name of a host's port at the bridge.
func portOf(namespace string) string { return strings.TrimPrefix(namespace, prefix) }

// setLink cuts or mends a host's link at the switch's end: the host sees its carrier go, and no process is touched.
func setLink(ctx context.Context, namespace string, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return ip(ctx, fmt.Sprintf("-n %s link set %s %s", FabricNamespace, portOf(namespace), state))
}

// linkUp says whether a host's port at the switch is up.
func linkUp(ctx context.Context, namespace string) (bool, error) {
	out, err := output(ctx, "ip", "-n", FabricNamespace, "-o", "link", "show", portOf(namespace))
	if err != nil {
		return false, err
	}
	_, flags, _ := strings.Cut(out, "<")
	flags, _, _ = strings.Cut(flags, ">")
	for f := range strings.SplitSeq(flags, ",") {
		if f == "UP" {
			return true, nil
		}
	}
	return false, nil
}

// removeNamespace removes a host's link and its namespace. The link goes first: a namespace lives on without its name
// while a closed connection waits for an answer that never comes, and it would keep the link.
func removeNamespace(ctx context.Context, namespace string) error {
	if _, err := os.Stat(nsPath(FabricNamespace)); err == nil {
		// There is no such port if the host was only half made.
		_ = ip(ctx, "-n "+FabricNamespace+" link del "+portOf(namespace))
	}
	if _, err := os.Stat(nsPath(namespace)); os.IsNotExist(err) {
		return nil
	}
	return ip(ctx, "netns del "+namespace)
}

// ours matches the namespaces of a lab, and not those that somebody else may have named shoal-something.
var ours = regexp.MustCompile(`^shoal-(fabric|client|registry|node[0-9]{1,3})$`)

// namespaces lists the network namespaces of the lab that is on the machine.
func namespaces() ([]string, error) {
	entries, err := os.ReadDir(nsPath(""))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if ours.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// inode identifies a network namespace: it is the number in /proc/PID/ns/net.
func inode(namespace string) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(nsPath(namespace), &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: nsPath(namespace), Err: err}
	}
	return st.Ino, nil
}
