package containerd

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

func oneFile(t *testing.T, name, text string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(tarFile(w, name, 0o644, []byte(text)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return &b
}

// read gives the text of the first file of what is at a path.
func (l *lab) read(t *testing.T, id, p string) (string, error) {
	t.Helper()
	var b bytes.Buffer
	if err := l.engine.ReadFiles(t.Context(), id, p, func(container.PathStat) (io.Writer, error) { return &b, nil }); err != nil {
		return "", err
	}
	r := tar.NewReader(&b)
	if _, err := r.Next(); err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), err
}

// waiting starts a container that does something and then says so and waits.
func (l *lab) waiting(t *testing.T, command string, h *container.HostConfig) string {
	t.Helper()
	id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"sh", "-c", command + "; echo ready; exec sleep 1000"}}, HostConfig: h})
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if !poll(20*time.Second, func() bool { return strings.Contains(l.log(t, id), "ready") }) {
		t.Fatalf("the container says %q", l.log(t, id))
	}
	return id
}

func (l *lab) kill(t *testing.T, id string) {
	t.Helper()
	gone, err := l.engine.Wait(t.Context(), id, container.WaitConditionNotRunning)
	if err == nil {
		err = l.engine.Kill(t.Context(), id, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	<-gone
}

// TestFilesInMounts: files are where the container has them.
func TestFilesInMounts(t *testing.T) {
	l, bind, ro := real(t), t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(ro, "f"), []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.engine.RemoveVolume(t.Context(), "files-vol", true) })
	id := l.waiting(t, "true", &container.HostConfig{Binds: []string{"files-vol:/vol", bind + ":/bind", ro + ":/ro:ro"}, Tmpfs: map[string]string{"/scratch": ""}})
	put := func(dir, text string) error {
		return l.engine.WriteFiles(t.Context(), id, dir, oneFile(t, "new", text), engine.WriteOptions{})
	}
	for _, when := range []string{"running", "ended"} {
		places := []string{"/vol", "/bind", "/tmp"}
		if when == "running" {
			places = append(places, "/scratch")
		}
		for _, dir := range places {
			if err := put(dir, when); err != nil {
				t.Errorf("%s, %s: %v", when, dir, err)
			}
			if got, err := l.read(t, id, dir+"/new"); got != when {
				t.Errorf("%s, %s: %q, %v", when, dir, got, err)
			}
		}
		if b, err := os.ReadFile(filepath.Join(bind, "new")); string(b) != when {
			t.Errorf("%s: the bind has %q, %v", when, b, err)
		}
		if got, err := l.read(t, id, "/ro/f"); got != "of the host" {
			t.Errorf("%s: %q, %v", when, got, err)
		}
		if err := put("/ro", "x"); !errdefs.IsInvalidArgument(err) || err.Error() != "mounted volume is marked read-only" {
			t.Errorf("%s: %v", when, err)
		}
		var all bytes.Buffer
		if err := l.engine.Export(t.Context(), id, &all); err != nil || strings.Contains(all.String(), "of the host") || !strings.Contains(all.String(), "tmp/new") {
			t.Errorf("%s: the export has what is mounted, or %v", when, err)
		}
		if when == "running" {
			if st, err := l.engine.StatFile(t.Context(), id, "/etc/hostname"); err != nil || st.Size == 0 {
				t.Errorf("/etc/hostname: %+v, %v", st, err)
			}
			l.kill(t, id)
		}
	}
	if list, err := os.ReadDir(ro); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	l.nothingMounted(t)
}

// TestFilesStayInside: a container's links lead nowhere, whoever asks and whatever it does meanwhile.
func TestFilesStayInside(t *testing.T) {
	l, host := real(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 12)
	// The loop exchanges a folder and a link as fast as a shell can (CVE-2018-15664).
	command := fmt.Sprintf(`ln -s %[1]s /abs; ln -s %[2]s%[1]s /rel; ln -s /proc/1/root /magic; mkdir /swap; echo inside >/swap/secret
		(while :; do mv /swap /swap.dir; ln -s %[2]s%[1]s /swap; rm /swap; mv /swap.dir /swap; done) 2>/dev/null &`, host, up)
	img, err := busybox("swaps")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.engine.Load(t.Context(), dockerArchive("swaps:test", img)); err != nil {
		t.Fatal(err)
	}
	command = strings.NewReplacer("ln ", "/bin/busybox ln ", "mkdir ", "/bin/busybox mkdir ", "mv ", "/bin/busybox mv ", "rm ", "/bin/busybox rm ").Replace(command)
	id := l.waiting(t, strings.TrimSuffix(strings.TrimSpace(command), "&")+"& true", nil)
	for _, when := range []string{"running", "ended"} {
		for _, p := range []string{"/abs/secret", "/rel/secret", "/magic" + host + "/secret", "/proc/1/root" + host + "/secret", "/proc/self/root" + host + "/secret", up + host + "/secret"} {
			if got, err := l.read(t, id, p); err == nil {
				t.Errorf("%s: %s: %q", when, p, got)
			}
		}
		for _, p := range []string{"/abs", "/rel", "/magic" + host, "/"} {
			_ = l.engine.WriteFiles(t.Context(), id, p, oneFile(t, "abs/new", "x"), engine.WriteOptions{})
			_ = l.engine.WriteFiles(t.Context(), id, p, oneFile(t, "new", "x"), engine.WriteOptions{})
		}
		for range 100 {
			if got, _ := l.read(t, id, "/swap/secret"); strings.Contains(got, "host") {
				t.Fatalf("%s: the race was lost", when)
			}
			_ = l.engine.WriteFiles(t.Context(), id, "/swap", oneFile(t, "secret", "x"), engine.WriteOptions{})
		}
		if when == "running" {
			l.kill(t, id)
		}
	}
	list, err := os.ReadDir(host)
	b, rerr := os.ReadFile(filepath.Join(host, "secret"))
	if err := errors.Join(err, rerr); err != nil || len(list) != 1 || string(b) != "the host's" {
		t.Errorf("the host has %v, %q, %v", list, b, err)
	}
	l.nothingMounted(t)
}

func TestFilesOfUser(t *testing.T) {
	l := real(t)
	id := l.made(t, engine.Spec{Config: &container.Config{User: "fish:water", Cmd: []string{"true"}}})
	if err := l.engine.WriteFiles(t.Context(), id, "/tmp", oneFile(t, "f", "x"), engine.WriteOptions{OwnerUser: true}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := l.engine.ReadFiles(t.Context(), id, "/tmp/f", func(container.PathStat) (io.Writer, error) { return &b, nil }); err != nil {
		t.Fatal(err)
	}
	if h, err := tar.NewReader(&b).Next(); err != nil || h.Uid != 1000 || h.Gid != 2000 {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestChangesOfContainer: what a container does shows as Docker shows it, and a commit has it.
func TestChangesOfContainer(t *testing.T) {
	l := real(t)
	id := l.waiting(t, "b=/bin/busybox; $b rm /etc/mark; $b rm -r /home; $b mkdir /home; $b rm -r /tmp; echo x >/etc/passwd; $b mkdir /new; $b ln -s /etc /new/l; $b chmod 700 /bin; $b rm /bin/pwd", nil)
	want := []string{"C /bin", "D /bin/pwd", "C /etc", "D /etc/mark", "C /etc/passwd", "A /new", "A /new/l", "D /tmp"}
	for _, when := range []string{"running", "ended"} {
		list, err := l.engine.Changes(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range list {
			got = append(got, fmt.Sprint(c.Kind, " ", c.Path))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
		if when == "running" {
			l.kill(t, id)
		}
	}
	made, err := l.engine.Commit(t.Context(), id, engine.CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.engine.RemoveImage(t.Context(), made, true) })
	code, out := l.output(t, engine.Spec{Config: &container.Config{Image: made, Cmd: []string{"sh", "-c", "ls -d /bin /etc/* /new/* /home /tmp /bin/pwd; cat /etc/passwd"}}})
	for _, absent := range []string{"/etc/mark\n", "/tmp\n", "/bin/pwd\n"} {
		if slices.Contains(strings.Split(out, "\n"), strings.TrimSpace(absent)) {
			t.Errorf("%s is there again: %d %s", absent, code, out)
		}
	}
	for _, there := range []string{"/new/l", "/home", "x"} {
		if !slices.Contains(strings.Split(out, "\n"), there) {
			t.Errorf("%s is missing: %d %s", there, code, out)
		}
	}
}
