package containerd

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"

	"shoal.dev/shoal/internal/engine"
)

// withFiles is an image that declares /data a volume and has files there, and an absolute link to it.
func withFiles(t *testing.T) v1.Image {
	t.Helper()
	img, err := busybox("volumes")
	if err != nil {
		t.Fatal(err)
	}
	layer, err := tarLayer(func(w *tar.Writer) error {
		return errors.Join(
			w.WriteHeader(&tar.Header{Name: "data/", Typeflag: tar.TypeDir, Mode: 0o1770, Uid: 1000, Gid: 2000}),
			w.WriteHeader(&tar.Header{Name: "data/f", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 1000, Gid: 1000}),
			w.WriteHeader(&tar.Header{Name: "data/l", Typeflag: tar.TypeSymlink, Linkname: "/etc/mark"}),
			w.WriteHeader(&tar.Header{Name: "linked", Typeflag: tar.TypeSymlink, Linkname: "/data"}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.Config.Volumes = map[string]struct{}{"/data": {}}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// shell runs a command in a container to its end and returns its output and exit code. The container stays until the
// test ends, or goes with its volumes.
func (l *lab) shell(t *testing.T, image, command string, h *container.HostConfig) (id, out string, code int) {
	t.Helper()
	ctx := t.Context()
	h.NetworkMode = "none"
	id, _, err := l.engine.Create(ctx, engine.Spec{Config: &container.Config{Image: image, Cmd: []string{"sh", "-c", command}}, HostConfig: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.engine.Purge(t.Context(), id, true) })
	done, err := l.engine.Wait(ctx, id, container.WaitConditionNextExit)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.engine.Start(ctx, id); err != nil {
		return id, err.Error(), -1
	}
	code = (<-done).ExitCode
	err = l.engine.Logs(ctx, id, engine.LogOptions{Stdout: true, Stderr: true, Tail: -1}, func(line engine.LogLine) error {
		out += string(line.Line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return id, out, code
}

func TestVolumeContent(t *testing.T) {
	l := real(t)
	names, err := l.engine.Load(t.Context(), dockerArchive("volumes:test", withFiles(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, v := range []string{"vol-named", "vol-bare", "vol-tmp", "vol-bind"} {
			if err := l.engine.RemoveVolume(t.Context(), v, true); err != nil {
				t.Error(err)
			}
		}
	})
	const look = "ls -nd /data; ls -n /data"
	want := []string{"drwxrwx--T", "1000     2000", "-rw-r-----", "1000     1000", "l -> /etc/mark"}
	bind := t.TempDir()
	if err := os.WriteFile(filepath.Join(bind, "own"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		command string
		h       container.HostConfig
		want    []string
	}{
		"image's own": {look, container.HostConfig{}, want},
		"named":       {look, container.HostConfig{Binds: []string{"vol-named:/data"}}, want},
		"by a link":   {"ls -n /linked/", container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Target: "/linked"}}}, want[2:]},
		"nocopy":      {"ls /data | wc -l", container.HostConfig{Binds: []string{"vol-bare:/data:nocopy"}}, []string{"0"}},
		"read-only":   {"touch /data/x; ls /data", container.HostConfig{Binds: []string{"vol-named:/data:ro"}}, []string{"Read-only file system", "f\n"}},
		"tmpfs": {"grep /data /proc/mounts", container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "vol-tmp", Target: "/data",
			VolumeOptions: &mount.VolumeOptions{NoCopy: true, DriverConfig: &mount.Driver{Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}}}}}},
			[]string{"tmpfs /data tmpfs", "size=1024k", "uid=7"}},
		"bind": {"ls /data", container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "vol-bind", Target: "/data",
			VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Options: map[string]string{"type": "none", "device": bind, "o": "bind"}}}}}},
			[]string{"own"}},
	} {
		t.Run(name, func(t *testing.T) {
			id, out, _ := l.shell(t, names[0], test.command, &test.h)
			for _, w := range test.want {
				if !strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(w), " ")) {
					t.Errorf("output lacks %q:\n%s", w, out)
				}
			}
			if err := l.engine.Purge(t.Context(), id, true); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(bind, "own")); err != nil {
		t.Error(err)
	}
	l.nothingMounted(t)
}

// nothingMounted says what of volumes is mounted while no container that uses one runs.
func (l *lab) nothingMounted(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, l.dir+"/root/volumes") || strings.Contains(line, l.dir+"/st/m/") {
			t.Errorf("still mounted: %s", line)
		}
	}
}

func TestVolumeSubpath(t *testing.T) {
	l := real(t)
	if _, err := l.engine.CreateVolume(t.Context(), volume.CreateRequest{Name: "vol-sub"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.engine.RemoveVolume(t.Context(), "vol-sub", true) })
	sub := func(path string) *container.HostConfig {
		return &container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "vol-sub", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: path}}}}
	}
	id, out, code := l.shell(t, "busybox:test", "cd /v; mkdir -p a/b; echo hello >a/b/f; ln -s /etc e; ln -s ../../.. a/up", &container.HostConfig{Binds: []string{"vol-sub:/v"}})
	if code != 0 {
		t.Fatal(out)
	}
	if err := l.engine.Remove(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"a/b": "hello", "a/b/f": "hello"} {
		command := "cat /x/f"
		if strings.HasSuffix(path, "f") {
			command = "cat /x"
		}
		if _, out, code := l.shell(t, "busybox:test", command, sub(path)); code != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: %d %s", path, code, out)
		}
	}
	for _, path := range []string{"e", "a/up", "missing"} {
		id, out, code := l.shell(t, "busybox:test", "ls /x", sub(path))
		if code != -1 || !strings.Contains(out, "cannot access path") {
			t.Errorf("%s: %d %s", path, code, out)
		}
		if err := l.engine.Remove(t.Context(), id, true); err != nil {
			t.Error(err)
		}
	}
	l.nothingMounted(t)
}

// TestVolumeThatCannotBeMounted: the container says why it does not start, and leaves nothing.
func TestVolumeThatCannotBeMounted(t *testing.T) {
	l := real(t)
	_, err := l.engine.CreateVolume(t.Context(), volume.CreateRequest{Name: "vol-bad", DriverOpts: map[string]string{"type": "none", "device": "/no/such/folder", "o": "bind"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.engine.RemoveVolume(t.Context(), "vol-bad", true) })
	for _, binds := range [][]string{{"vol-bad:/x"}, {"vol-ok:/a", "vol-bad:/x"}} {
		id, out, code := l.shell(t, "busybox:test", "true", &container.HostConfig{Binds: binds})
		if code != -1 || !strings.Contains(out, "failed to mount local volume: mount /no/such/folder:") || !strings.Contains(out, "no such file or directory") {
			t.Errorf("%d %s", code, out)
		}
		if err := l.engine.Remove(t.Context(), id, true); err != nil {
			t.Error(err)
		}
	}
	if err := l.engine.RemoveVolume(t.Context(), "vol-ok", true); err != nil {
		t.Error(fmt.Errorf("after a failed start: %w", err))
	}
	l.nothingMounted(t)
}
