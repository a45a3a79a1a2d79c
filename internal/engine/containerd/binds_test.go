package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

// How a folder of the host, with a mount in it, comes into a container, and what comes back.
func TestBinds(t *testing.T) {
	l := real(t)
	l.leaksNothing(t)
	dir := filepath.Join(l.dir, "outside")
	inner := filepath.Join(dir, "inner")
	if err := os.MkdirAll(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		src, at string
		kind    string
		flags   uintptr
	}{{"t", dir, "tmpfs", 0}, {"", dir, "", unix.MS_SHARED}, {"u", inner, "tmpfs", 0}} {
		if err := os.MkdirAll(m.at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(m.src, m.at, m.kind, m.flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, at := range []string{filepath.Join(dir, "made"), inner, dir} {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	private := filepath.Join(l.dir, "private")
	if err := os.MkdirAll(private, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("p", private, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(private, unix.MNT_DETACH) })
	if err := unix.Mount("", private, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	host := func(src string, ro bool, o mount.BindOptions) container.HostConfig {
		return container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: src, Target: "/b", ReadOnly: ro, BindOptions: &o}}}
	}
	const touch = "touch /b/x 2>/dev/null && echo -n outer; touch /b/inner/x 2>/dev/null && echo -n inner; grep -c ' /b/inner ' /proc/mounts"
	force := "1\n"
	for _, test := range []struct {
		name, sh, want string
		h              container.HostConfig
	}{
		{"writable", touch, "outerinner1\n", host(dir, false, mount.BindOptions{})},
		{"not recursive", touch, "outerinner0\n", host(dir, false, mount.BindOptions{NonRecursive: true})},
		{"read-only", touch, force, host(dir, true, mount.BindOptions{})},
		{"read-only by force", touch, force, host(dir, true, mount.BindOptions{ReadOnlyForceRecursive: true, Propagation: mount.PropagationRPrivate})},
		{"read-only at the top", touch, "inner1\n", host(dir, true, mount.BindOptions{ReadOnlyNonRecursive: true})},
		{"shared", "mkdir -p /b/made && busybox mount -t tmpfs v /b/made && echo -n made", "made", func() container.HostConfig {
			h := host(dir, false, mount.BindOptions{Propagation: mount.PropagationRShared})
			h.Privileged = true
			return h
		}()},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, out := l.output(t, engine.Spec{Config: &container.Config{Cmd: []string{"sh", "-c", test.sh}}, HostConfig: &test.h})
			if out != test.want {
				t.Errorf("the container wrote %q; want %q", out, test.want)
			}
		})
	}
	if b, _ := os.ReadFile("/proc/self/mounts"); !strings.Contains(string(b), " "+filepath.Join(dir, "made")+" ") {
		t.Error("what the container mounted in a shared folder is not there")
	}
	for p, words := range map[mount.Propagation]string{"rshared": "it is not a shared mount", "slave": "it is not a shared or slave mount"} {
		h := host(private, false, mount.BindOptions{Propagation: p})
		id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"true"}}, HostConfig: &h})
		if err := l.engine.Start(t.Context(), id); err == nil || !strings.Contains(err.Error(), "path "+private+" is mounted on "+private+" but "+words) {
			t.Errorf("%s: %v", p, err)
		}
	}
}
