package containerd

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

// onDisk lists the files below dir that hold the text. What is mounted there is not on the disk and is left out.
func onDisk(t *testing.T, dir, text string) []string {
	t.Helper()
	var st, here unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went meanwhile
		}
		if d.IsDir() {
			if unix.Stat(path, &here) == nil && here.Dev != st.Dev {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), text) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFilesAreInMemoryOnly(t *testing.T) {
	l := real(t)
	ctx := t.Context()
	// The text is put together here, so that no file of this program's source or code holds it.
	canary := strings.Join([]string{"canary", "8f21", "b"}, "-")
	id, _, err := l.engine.Create(ctx, engine.Spec{
		Config: &container.Config{Image: "busybox:test", Cmd: []string{"sh", "-c",
			"cat /run/secrets/pass /etc/deep/conf; ls -ln /run/secrets/pass /etc/deep/conf; grep /run/secrets/pass /proc/mounts; echo x 2>&1 >/run/secrets/pass; echo READY; sleep 600"}},
		HostConfig: &container.HostConfig{NetworkMode: "none", ReadonlyRootfs: true, Tmpfs: map[string]string{"/run": "size=1m"}},
		Files: []engine.File{
			{Target: "/run/secrets/pass", UID: 7, GID: 8, Mode: 0o400, Data: []byte(canary + "\n")},
			{Target: "/etc/deep/conf", Mode: 0o444, Data: []byte("a config\n")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.engine.Purge(t.Context(), id, true) })
	if err := l.engine.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	logs := func() string {
		out.Reset()
		if err := l.engine.Logs(ctx, id, engine.LogOptions{Stdout: true, Stderr: true, Tail: -1}, func(line engine.LogLine) error {
			out.Write(line.Line)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if !poll(20*time.Second, func() bool { return strings.Contains(logs(), "READY") }) {
		t.Fatalf("the container says %q", logs())
	}
	text := strings.Join(strings.Fields(logs()), " ")
	for _, want := range []string{canary + " a config", "-r-------- 1 7 8", "-r--r--r-- 1 0 0", "tmpfs /run/secrets/pass tmpfs ro", "Read-only file system"} {
		if !strings.Contains(text, want) {
			t.Errorf("the container does not say %q: %s", want, text)
		}
	}
	var vfs unix.Statfs_t
	if err := unix.Statfs(l.engine.filesDir(id), &vfs); err != nil || vfs.Type != unix.TMPFS_MAGIC {
		t.Errorf("the files are on a file system of type %x, %v", vfs.Type, err)
	}
	// The container has printed the secret, so its log holds it, and nothing else may.
	for _, path := range onDisk(t, l.dir, canary) {
		if !strings.HasPrefix(path, l.engine.cfg.containerDir(id)) || !strings.Contains(filepath.Base(path), "json.log") {
			t.Errorf("%s holds the secret", path)
		}
	}
	if err := l.engine.Stop(ctx, id, engine.StopOptions{Timeout: new(time.Duration)}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.engine.filesDir(id)); !os.IsNotExist(err) {
		t.Errorf("the files of an ended container: %v", err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(b), l.engine.filesRoot()+"/"+id) {
		t.Errorf("still mounted: %v", err)
	}
}

// TestFilesGoWithAStartThatFails: the container stays for its user to look at, and holds no secret.
func TestFilesGoWithAStartThatFails(t *testing.T) {
	l := real(t)
	id, _, err := l.engine.Create(t.Context(), engine.Spec{
		Config:     &container.Config{Image: "busybox:test", Cmd: []string{"/nothing"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"}, Files: []engine.File{{Target: "/run/secrets/a", Data: []byte("x")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.engine.Purge(t.Context(), id, true) })
	if _, err := os.Stat(l.engine.filePath(id, 0)); err != nil {
		t.Fatal(err)
	}
	if err := l.engine.Start(t.Context(), id); err == nil {
		t.Fatal("it started")
	}
	if _, err := os.Stat(l.engine.filesDir(id)); !os.IsNotExist(err) {
		t.Errorf("the files are there still: %v", err)
	}
}

// TestFilesOfNobodyAreRemoved leaves files of a container that was never finished, as a daemon that dies does.
func TestFilesOfNobodyAreRemoved(t *testing.T) {
	if unable() != "" || testing.Short() {
		t.Skip("mounting needs root")
	}
	e := &Engine{cfg: Config{State: t.TempDir()}}
	dir := e.filesDir("dead")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skip("cannot mount here: ", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.sweepFiles(map[string]bool{"alive": true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", dir, err)
	}
}
