package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

// fullDisk is what an engine whose disk is full says of each step, and what it holds before and after.
type fullDisk struct {
	Fill, Create, Start, Load, Remove, Again string
	Before, After                            []string // folders of containers and snapshots
}

// fullSurvivor is an engine of its own, on a disk that its containers fill.
func fullSurvivor() {
	ctx, cancel := context.WithCancel(context.Background())
	RedirectLogs(slog.New(slog.DiscardHandler))
	dir := os.Getenv("SHOAL_ENGINE_TEST_DIR")
	e := must(Open(ctx, testConfig(dir)))
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	must(e.Load(ctx, dockerArchive("busybox:test", must(busybox("full")))))
	create := func(name string, cmd ...string) (string, error) {
		id, _, err := e.Create(ctx, engine.Spec{Name: name, Config: &container.Config{Image: "busybox:test", Cmd: cmd}, HostConfig: &container.HostConfig{NetworkMode: "none"}})
		return id, err
	}
	run := func(id string) string {
		if err := e.Start(ctx, id); err != nil {
			return err.Error()
		}
		r := <-must(e.Wait(ctx, id, container.WaitConditionNotRunning))
		return fmt.Sprint("exit ", r.ExitCode)
	}
	held := func() []string {
		var list []string
		for _, p := range []string{"root/containers/*", "root/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*", "st/containerd/*/*/*"} {
			found, _ := filepath.Glob(filepath.Join(dir, p))
			for _, f := range found {
				list = append(list, strings.TrimPrefix(f, dir))
			}
		}
		return list
	}
	text := func(err error) string {
		if err == nil {
			return "done"
		}
		return err.Error()
	}
	waiting := must(create("waiting", "true"))
	filler := must(create("filler", "sh", "-c", "dd if=/dev/zero of=/fill bs=64k; dd if=/dev/zero of=/rest bs=1; exit 7"))
	var r fullDisk
	r.Fill = run(filler)
	r.Before = held()
	_, err := create("refused", "true")
	r.Create = text(err)
	r.Start = run(waiting)
	_, err = e.Load(ctx, dockerArchive("busybox:more", must(busybox(strings.Repeat("more", 1<<20)))))
	r.Load = text(err)
	poll(10*time.Second, func() bool { return len(held()) <= len(r.Before) })
	r.After = held()
	r.Remove = text(e.Remove(ctx, filler, false))
	var id string
	poll(30*time.Second, func() bool { id, err = create("again", "true"); return err == nil }) // containerd's collector takes the files
	r.Again = text(err)
	if err == nil {
		r.Again = run(id)
	}
	cancel()
	must(0, <-done)
	fmt.Println("REPORT " + string(must(json.Marshal(r))))
}

// On a full disk every error names the cause, nothing is left half made, and what is removed makes room again.
func TestFullDisk(t *testing.T) {
	l := real(t)
	dir, err := os.MkdirTemp("/tmp", "shoalt-f-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cleanUp(dir) })
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("disk", root, "tmpfs", 0, "size=40m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	if err := os.Link(filepath.Join(l.dir, "shim"), filepath.Join(dir, "shim")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "SHOAL_ENGINE_TEST=full", "SHOAL_ENGINE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, report, _ := bytes.Cut(out, []byte("REPORT "))
	var r fullDisk
	if err := json.Unmarshal(report, &r); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	const cause = "no space left on device"
	if r.Fill != "exit 7" {
		t.Errorf("the container that fills the disk: %s", r.Fill)
	}
	for what, said := range map[string]string{"create": r.Create, "load": r.Load} {
		if !strings.Contains(said, cause) {
			t.Errorf("%s: %s; want %q", what, said, cause)
		}
	}
	if r.Start != "exit 0" && !strings.Contains(r.Start, cause) {
		t.Errorf("start: %s", r.Start)
	}
	if len(r.After) > len(r.Before) {
		t.Errorf("held before %q and after %q", r.Before, r.After)
	}
	if r.Remove != "done" || r.Again != "exit 0" {
		t.Errorf("removal: %s; then another container: %s", r.Remove, r.Again)
	}
}
