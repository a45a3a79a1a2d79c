package containerd

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

func TestHostResolver(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	behind := write("behind", "nameserver 192.0.2.1\n")
	nothing := filepath.Join(dir, "nothing")
	for _, test := range []struct{ path, systemd, want string }{
		{write("own", "nameserver 192.0.2.7\n"), behind, "nameserver 192.0.2.7\n"},
		{write("stub", "nameserver 127.0.0.53\noptions edns0\n"), behind, "nameserver 192.0.2.1\n"},
		{write("two", "nameserver 127.0.0.53\nnameserver 192.0.2.7\n"), behind, "nameserver 127.0.0.53\nnameserver 192.0.2.7\n"},
		{write("no systemd", "nameserver 127.0.0.53\n"), nothing, "nameserver 127.0.0.53\n"},
		{nothing, behind, ""},
	} {
		if got, err := hostResolver(test.path, test.systemd); err != nil || string(got) != test.want {
			t.Errorf("%s: %q, %v; want %q", test.path, got, err, test.want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	const host = "# of the host\nnameserver 192.0.2.1\nnameserver 127.0.0.1\nsearch example.com\noptions rotate\n"
	own := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	for _, test := range []struct {
		name  string
		h     container.HostConfig
		names bool
		want  string
	}{
		{"the bridge", container.HostConfig{}, false, "nameserver 192.0.2.1\nsearch example.com\noptions rotate\n"},
		{"names", container.HostConfig{}, true, "nameserver 127.0.0.11\nsearch example.com\noptions rotate\noptions ndots:0\n"},
		{"own server", container.HostConfig{DNS: own}, false, "search example.com\noptions rotate\nnameserver 198.51.100.1\n"},
		{"names and an own server", container.HostConfig{DNS: own}, true, "nameserver 127.0.0.11\nsearch example.com\noptions rotate\noptions ndots:0\n"},
		{"names and own dots", container.HostConfig{DNSOptions: []string{"ndots:3"}, DNSSearch: []string{"."}}, true, "nameserver 127.0.0.11\noptions ndots:3\n"},
	} {
		c := &ledger.Container{HostConfig: &test.h, State: ledger.State{Sandbox: engine.Sandbox{Names: test.names}}}
		if got := string(resolvConf(c, []byte(host))); got != test.want {
			t.Errorf("%s: %q; want %q", test.name, got, test.want)
		}
	}
}
