package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// peerPackages are Debian's packages that make a dockerd that runs without being installed: the daemon and what it
// needs beside a usual system. runc is the machine's, as for Shoal.
var peerPackages = []string{"docker.io", "containerd", "iptables", "libdevmapper1.02.1", "libip4tc2", "libip6tc2", "libxtables12", "libnftnl11", "libnetfilter-conntrack3", "libnfnetlink0"}

// wrapper starts the unpacked daemon with its own programs and libraries. $0 is the wrapper's path.
const wrapper = `#!/bin/sh
root=$(dirname "$0")/root
export PATH="$root/usr/sbin:$root/usr/bin:$PATH"
for lib in "$root"/usr/lib/*-linux-gnu "$root"/lib/*-linux-gnu; do LD_LIBRARY_PATH=$lib:$LD_LIBRARY_PATH; done
export LD_LIBRARY_PATH XTABLES_LIBDIR=$(echo "$root"/usr/lib/*-linux-gnu/xtables)
exec dockerd "$@"
`

// Docker fetches Debian's docker.io into a folder, if it is not there yet, and returns it as a side to compare with. It
// is unpacked and not installed: nothing of the machine changes and nothing starts by itself.
func Docker(ctx context.Context, dir string) (Side, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Side{}, err
	}
	daemon, stamp := filepath.Join(dir, "dockerd"), filepath.Join(dir, "version")
	if _, err := os.Stat(stamp); errors.Is(err, os.ErrNotExist) {
		if err := fetchDocker(ctx, dir, daemon, stamp); err != nil {
			return Side{}, fmt.Errorf("fetch the peer: %w", err)
		}
	}
	version, err := os.ReadFile(stamp)
	return Side{Name: "Docker " + strings.TrimSpace(string(version)), Daemon: daemon}, err
}

// fetch unpacks Debian packages below root, a folder in dir, and returns their files.
func fetch(ctx context.Context, dir, root string, packages []string) ([]string, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if err := command(ctx, dir, "apt-get", append([]string{"download", "-q", "-o", "APT::Sandbox::User=root"}, packages...)...); err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	for _, d := range debs {
		if err := command(ctx, dir, "dpkg", "-x", d, root); err != nil {
			return nil, err
		}
	}
	return debs, nil
}

func fetchDocker(ctx context.Context, dir, daemon, stamp string) error {
	root := filepath.Join(dir, "root")
	debs, err := fetch(ctx, dir, root, peerPackages)
	if err != nil {
		return err
	}
	// The alternatives that an installation would make.
	for _, tool := range []string{"iptables", "ip6tables", "iptables-save", "iptables-restore"} {
		link := filepath.Join(root, "usr", "sbin", tool)
		if err := os.Symlink("xtables-nft-multi", link); err != nil {
			return err
		}
	}
	if err := os.WriteFile(daemon, []byte(wrapper), 0o755); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "dpkg-deb", "-f", debOf(debs, "docker.io_"), "Version").Output()
	if err != nil {
		return err
	}
	return os.WriteFile(stamp, out, 0o644)
}

func debOf(debs []string, prefix string) string {
	for _, d := range debs {
		if strings.HasPrefix(filepath.Base(d), prefix) {
			return d
		}
	}
	return prefix
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
