package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ggcr "github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/enginetest"
	netfake "shoal.dev/shoal/internal/network/fake"
)

// cgroupParent is where the containers of an engine in dir are; cleanUp removes it.
func cgroupParent(dir string) string { return "/" + filepath.Base(dir) }

// lab is what the tests of this package share: containerd's registry and configuration belong to the process, so there
// is one engine in it.
type lab struct {
	dir      string
	engine   *Engine
	registry string // host:port
	once     sync.Once
	skip     string // why there is none
	broken   error  // likewise
	stop     func()
	hostNS   string // the namespace of the host's network, as a link
}

var shared lab

func TestMain(m *testing.M) {
	if mode := os.Getenv("SHOAL_ENGINE_TEST"); mode != "" {
		switch {
		case mode == "full":
			fullSurvivor()
		case strings.HasPrefix(mode, "policy"):
			policySurvivor(mode)
		case strings.HasPrefix(mode, "health"):
			healthSurvivor(mode)
		default:
			survivor(mode)
		}
		return
	}
	// Later the main thread, whose namespace that path shows, may be in one that a test makes.
	shared.hostNS, _ = os.Readlink("/proc/self/ns/net")
	code := m.Run()
	if shared.stop != nil {
		shared.stop()
	}
	os.Exit(code)
}

// unable says why real containers cannot run here.
func unable() string {
	if os.Getuid() != 0 {
		return "containers need root"
	}
	for _, p := range []string{"runc", "/bin/busybox"} {
		if _, err := exec.LookPath(p); err != nil {
			return p + " is not installed"
		}
	}
	return ""
}

// real gives the lab, which the first test that asks for it starts.
func real(t testing.TB) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("real containers take their time")
	}
	shared.once.Do(func() {
		if shared.skip = unable(); shared.skip == "" {
			shared.stop, shared.broken = shared.start()
		}
	})
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	if shared.broken != nil {
		t.Fatal(shared.broken)
	}
	return &shared
}

func testConfig(dir string) Config {
	return Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "st"), Namespace: "shoalt-engine",
		ShimPath: filepath.Join(dir, "shim"), InitPath: filepath.Join(dir, "init"), Runtime: "runc", CgroupParent: cgroupParent(dir),
		Sandboxes: &testNet{dir: filepath.Join(dir, "netns")},
		Log:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// start builds the shim, starts an engine and a registry, and gives both an image. stop undoes it all, also half of it.
func (l *lab) start() (stop func(), err error) {
	var undo []func()
	stop = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	if l.dir, err = os.MkdirTemp("/tmp", "shoalt-e-"); err != nil {
		return stop, err
	}
	undo = append(undo, func() { cleanUp(l.dir) })
	if out, err := exec.Command("go", "build", "-o", filepath.Join(l.dir, "shim"), "shoal.dev/shoal/cmd/containerd-shim-shoal-v1").CombinedOutput(); err != nil {
		return stop, fmt.Errorf("build the shim: %w\n%s", err, out)
	}
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(l.dir, "init"), "shoal.dev/shoal/cmd/shoal-init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return stop, fmt.Errorf("build the init process: %w\n%s", err, out)
	}
	RedirectLogs(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, cancel := context.WithCancel(context.Background())
	if l.engine, err = Open(ctx, testConfig(l.dir)); err != nil {
		cancel()
		return stop, err
	}
	done := make(chan error, 1)
	go func() { done <- l.engine.Run(ctx) }()
	undo = append(undo, func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "engine:", err)
		}
	})
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	undo = append(undo, srv.Close)
	l.registry = srv.Listener.Addr().String()
	img, err := busybox("local")
	if err != nil {
		return stop, err
	}
	names, err := l.engine.Load(ctx, dockerArchive("busybox:test", img))
	if err != nil || len(names) != 1 || names[0] != "busybox:test" {
		return stop, fmt.Errorf("load: %q, %w", names, err)
	}
	return stop, nil
}

// endAll ends every process and removes every mount that belongs to dir.
func endAll(dir string) {
	pids := func() (list []int) {
		procs, _ := filepath.Glob("/proc/[0-9]*")
		for _, p := range procs {
			pid, _ := strconv.Atoi(filepath.Base(p))
			exe, _ := os.Readlink(filepath.Join(p, "exe"))
			cg, _ := os.ReadFile(filepath.Join(p, "cgroup"))
			if strings.HasPrefix(exe, dir+"/") || strings.Contains(string(cg), ":"+cgroupParent(dir)+"/") {
				list = append(list, pid)
			}
		}
		return list
	}
	poll(10*time.Second, func() bool {
		list := pids()
		for _, pid := range list {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(list) == 0
	})
	mounts, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			_ = unix.Unmount(f[1], unix.MNT_DETACH)
		}
	}
}

// cleanUp ends every process and removes every mount, cgroup and file that belongs to dir.
func cleanUp(dir string) {
	endAll(dir)
	for _, pattern := range []string{"/sys/fs/cgroup/*" + cgroupParent(dir), "/sys/fs/cgroup" + cgroupParent(dir)} {
		found, _ := filepath.Glob(pattern)
		for _, cg := range found {
			kids, _ := filepath.Glob(cg + "/*/")
			for _, k := range append(kids, cg) {
				_ = os.Remove(k)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
	}
}

// poll asks until the answer is yes; false if it is still no at the end.
func poll(limit time.Duration, is func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(limit)
	defer end.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-end.C:
			return false
		}
	}
	return true
}

// testNet makes empty network namespaces and has everything else in memory; it stands for the network.
type testNet struct {
	netfake.Network
	dir string
	mu  sync.Mutex
	got []string // "attach ID ADDR" and "detach ID"
}

func (n *testNet) Attach(ctx context.Context, id string, a engine.Attachment) (engine.Sandbox, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got = append(n.got, fmt.Sprintf("attach %s %s", id, a.Ingress))
	path := filepath.Join(n.dir, id)
	for _, p := range a.Ports {
		if p.First == enginetest.TakenPort {
			return engine.Sandbox{}, errdefs.ErrConflict.WithMessage("Bind for 0.0.0.0:666 failed: port is already allocated")
		}
	}
	sb, err := n.Network.Attach(ctx, id, a)
	if err != nil {
		return sb, err
	}
	sb.NetNS = path
	if _, err := os.Stat(path); err == nil {
		return sb, nil
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return sb, err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return sb, err
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and its namespace, end with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}()
	return sb, <-done
}

func (n *testNet) Detach(ctx context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.Network.Detach(ctx, id); err != nil {
		return err
	}
	path := filepath.Join(n.dir, id)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return nil
	}
	n.got = append(n.got, "detach "+id)
	return os.Remove(path)
}

// busybox builds an image from the host's static busybox. Images of different marks have different digests.
func busybox(mark string) (v1.Image, error) {
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	base, err := tarLayer(func(w *tar.Writer) error {
		for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "home"} {
			if err := w.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return err
			}
		}
		if err := tarFile(w, "bin/busybox", 0o755, bin); err != nil {
			return err
		}
		for _, l := range []string{"sh", "sleep", "cat", "id", "env", "ls", "hostname", "true", "mount", "grep", "dd", "touch", "pwd", "test", "rm"} {
			if err := w.WriteHeader(&tar.Header{Name: "bin/" + l, Typeflag: tar.TypeSymlink, Linkname: "busybox"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	top, err := tarLayer(func(w *tar.Writer) error {
		return errors.Join(
			tarFile(w, "etc/passwd", 0o644, []byte("root:x:0:0::/root:/bin/sh\nfish:x:1000:1000::/home:/bin/sh\n")),
			tarFile(w, "etc/group", 0o644, []byte("root:x:0:\nfish:x:1000:\nwater:x:2000:fish\n")),
			tarFile(w, "etc/mark", 0o644, []byte(mark)))
	})
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, ggcr.OCIManifestSchema1), ggcr.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, base, top); err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Architecture, cf.OS = runtime.GOARCH, "linux"
	cf.Config = v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin", "FROM=image"}, Labels: map[string]string{"of": "image"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}}}
	return mutate.ConfigFile(img, cf)
}

func tarFile(w *tar.Writer, name string, mode int64, b []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(b))}); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

func tarLayer(fill func(*tar.Writer) error) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(fill(w), w.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(ggcr.OCILayer))
}

func dockerArchive(ref string, img v1.Image) io.Reader {
	r, w := io.Pipe()
	go func() {
		n, err := name.ParseReference(ref)
		if err == nil {
			err = tarball.Write(n, img, w)
		}
		w.CloseWithError(err)
	}()
	return r
}

// push puts an image into the lab's registry under a repository and tag and returns its familiar name.
func (l *lab) push(t *testing.T, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(l.registry+"/"+repo, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return l.registry + "/" + repo
}

// script is the shell's form of the suite's steps.
func script(steps ...string) []string {
	var b strings.Builder
	if slices.Contains(steps, "sleep") && !slices.Contains(steps, "stubborn") {
		// The first process of a PID namespace has no default actions: it ends by a signal only if it says so.
		b.WriteString("for s in 1:HUP 2:INT 10:USR1 15:TERM; do trap \"exit $((128 + ${s%:*}))\" ${s#*:}; done\n")
	}
	for _, s := range steps {
		verb, arg, _ := strings.Cut(s, " ")
		switch verb {
		case "print":
			fmt.Fprintf(&b, "echo %s\n", arg)
		case "warn":
			fmt.Fprintf(&b, "echo %s >&2\n", arg)
		case "cat":
			b.WriteString("cat\n")
		case "stubborn":
			b.WriteString("trap '' TERM\n")
		case "exit":
			fmt.Fprintf(&b, "exit %s\n", arg)
		case "sleep":
			if d, err := time.ParseDuration(arg); err == nil {
				fmt.Fprintf(&b, "sleep %.3f\n", d.Seconds())
			} else {
				b.WriteString("while :; do sleep 1000 & wait; done\n")
			}
		}
	}
	return []string{"sh", "-c", b.String()}
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Println("ERROR", err)
		os.Exit(3)
	}
	return v
}
