package containerd

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/engine/ledger"
)

// writeFiles makes the container's /etc/hostname, /etc/hosts and /etc/resolv.conf.
func (e *Engine) writeFiles(c *ledger.Container) error {
	resolv, err := hostResolver("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
	if err != nil {
		return err
	}
	hosts, err := hostsFile(c)
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{
		"hostname":    []byte(c.Config.Hostname + "\n"),
		"hosts":       hosts,
		"resolv.conf": resolvConf(c, resolv),
	} {
		// Not by renaming: a running container's mount would keep the old file.
		if err := os.WriteFile(filepath.Join(c.Dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hostResolver reads the host's resolver configuration. Where that names systemd's resolver on the loopback alone, which
// containers do not reach, it is the other file, in which systemd names the servers behind it.
func hostResolver(path, systemd string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var servers []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			servers = append(servers, f[1])
		}
	}
	if slices.Equal(servers, []string{"127.0.0.53"}) {
		if behind, err := os.ReadFile(systemd); err == nil {
			return behind, nil
		}
	}
	return text, nil
}

func hostsFile(c *ledger.Container) ([]byte, error) {
	var b bytes.Buffer
	if c.HostConfig.NetworkMode.IsHost() {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		b.Write(own)
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n" +
			"ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	for _, h := range c.HostConfig.ExtraHosts {
		name, ip, ok := strings.Cut(h, ":")
		if gw := c.State.Sandbox.Gateway(); ok && ip == "host-gateway" && gw != nil {
			ip = gw.Gateway.String()
		}
		if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); !ok || err != nil {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid IP address in add-host: %q", ip)
		}
		fmt.Fprintf(&b, "%s\t%s\n", strings.Trim(ip, "[]"), name)
	}
	for _, p := range c.State.Sandbox.Endpoints {
		names := c.Config.Hostname
		if c.Config.Domainname != "" {
			names = c.Config.Hostname + "." + c.Config.Domainname + " " + names
		}
		fmt.Fprintf(&b, "%s\t%s\n", p.Addr, names)
	}
	return b.Bytes(), nil
}

// nameServer is where the network answers containers' questions for names, see engine.Sandbox.Names.
const nameServer = "127.0.0.11"

// resolvConf is the host's resolver configuration, with what the container's settings replace. Servers on the host's
// loopback cannot be reached from a network namespace of its own and are left out there. Where the network answers, it
// is the only server, and asks the others itself.
func resolvConf(c *ledger.Container, host []byte) []byte {
	h, served := c.HostConfig, c.State.Sandbox.Names
	var b bytes.Buffer
	if served {
		b.WriteString("nameserver " + nameServer + "\n")
	}
	dots := slices.ContainsFunc(h.DNSOptions, setsDots)
	for line := range strings.Lines(string(host)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			ip, err := netip.ParseAddr(f[1])
			if served || len(h.DNS) > 0 || err != nil || ip.IsLoopback() && !h.NetworkMode.IsHost() {
				continue
			}
		case "search", "domain":
			if len(h.DNSSearch) > 0 {
				continue
			}
		case "options":
			if len(h.DNSOptions) > 0 {
				continue
			}
			dots = dots || slices.ContainsFunc(f[1:], setsDots)
		default:
			continue
		}
		b.WriteString(strings.Join(f, " ") + "\n")
	}
	for _, ip := range h.DNS {
		if !served {
			fmt.Fprintf(&b, "nameserver %s\n", ip)
		}
	}
	if len(h.DNSSearch) > 0 && h.DNSSearch[0] != "." {
		fmt.Fprintf(&b, "search %s\n", strings.Join(h.DNSSearch, " "))
	}
	if len(h.DNSOptions) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(h.DNSOptions, " "))
	}
	if served && !dots { // a container's name has none
		b.WriteString("options ndots:0\n")
	}
	return b.Bytes()
}

func setsDots(option string) bool { return strings.HasPrefix(option, "ndots:") }
